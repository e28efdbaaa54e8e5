//! Addresses as logs and answers may show them.

/// `ada@example.com` → `a***@example.com`: enough for its owner to recognise it, too little to write to.
#[must_use]
pub fn mask(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => {
            let first = local.chars().next().map(String::from).unwrap_or_default();
            format!("{first}***@{domain}")
        }
        None => "***".to_owned(),
    }
}

/// Masks whatever looks like an address within a longer text, such as a mail server's reply.
#[must_use]
pub fn mask_addresses(text: &str) -> String {
    let in_address = |c: char| !c.is_whitespace() && !"<>()[]\",;:'".contains(c);
    let mut masked = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if in_address(c) {
            word.push(c);
        } else {
            push_word(&mut masked, &word);
            word.clear();
            masked.push(c);
        }
    }
    push_word(&mut masked, &word);
    masked
}

fn push_word(out: &mut String, word: &str) {
    if word.contains('@') {
        out.push_str(&mask(word));
    } else {
        out.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_first_letter_and_the_domain() {
        assert_eq!(mask("ada@example.com"), "a***@example.com");
        assert_eq!(mask("nobody"), "***");
        assert_eq!(
            mask_addresses("550 5.1.1 <ada@example.com>: unknown, ask it@example.org"),
            "550 5.1.1 <a***@example.com>: unknown, ask i***@example.org"
        );
    }
}
