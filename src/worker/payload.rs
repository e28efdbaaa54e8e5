//! Payloads reach our wrapper as they are stored. Decoded by apalis, one unreadable row would end its worker with
//! everything that it runs, again and again.

use std::convert::Infallible;

use apalis_core::backend::codec::Codec;

/// A job's payload, undecoded.
#[derive(Debug, Clone)]
pub(super) struct RawPayload(pub Vec<u8>);

/// Hands payloads through.
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
