//! The trace id of a correlation id.

use sha2::{Digest as _, Sha256};

/// Whether a text is a W3C trace id: 32 lower-case hexadecimal digits, not all zero.
#[must_use]
pub fn is_trace_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 32 && text.bytes().all(is_digit) && text.bytes().any(|byte| byte != b'0')
}

/// The correlation id itself if it is a trace id, else one that is always derived from it in the same way.
pub(super) fn trace_id_of(correlation_id: &str) -> [u8; 16] {
    if is_trace_id(correlation_id)
        && let Ok(id) = u128::from_str_radix(correlation_id, 16)
    {
        return id.to_be_bytes();
    }
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(correlation_id)[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_kept_and_any_other_cause_gets_its_own() {
        let given = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            trace_id_of(given),
            0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()
        );
        assert_eq!(trace_id_of("msg_1"), trace_id_of("msg_1"));
        assert_ne!(trace_id_of("msg_1"), trace_id_of("msg_2"));
        for other in ["", "msg_1", &"0".repeat(32), &given.to_uppercase(), &given[1..]] {
            assert!(!is_trace_id(other), "{other}");
        }
    }
}
