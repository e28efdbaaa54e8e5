//! Passes payloads to our wrapper undecoded. If apalis decoded them, one unreadable row would end its worker with all
//! jobs that it runs, again and again.

use std::convert::Infallible;

use apalis_core::backend::codec::Codec;

#[derive(Debug, Clone)]
pub(super) struct RawPayload(pub Vec<u8>);

/// A codec that changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Verbatim;

impl Codec<RawPayload> for Verbatim {
    type Error = Infallible;
    type Compact = Vec<u8>;

    fn encode(&self, payload: &RawPayload) -> Result<Vec<u8>, Infallible> {
        Ok(payload.0.clone())
    }

    fn decode(&self, bytes: &Vec<u8>) -> Result<RawPayload, Infallible> {
        Ok(RawPayload(bytes.clone()))
    }
}
