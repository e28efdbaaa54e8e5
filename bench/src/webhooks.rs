//! Signed `user.created` webhooks as raw bytes of HTTP/1.1, all made before the clock starts.
//!
//! They differ in a number and in the signature only, so one text and a signature each is all that is kept of a
//! hundred thousand of them.

use std::ops::Range;
use std::thread;

use anyhow::Context as _;
use serde_json::json;
use usher::clock::Clock;
use usher_testkit::fake_clerk::{FakeUser, event, sign};
use usher_testkit::process::SIGNING_SECRET;

/// The path that they are sent to.
pub const PATH: &str = "/webhooks/clerk";

/// Stands for the number in the text; the number has as many digits.
const NUMBER: &str = "NNNNNNNN";
/// Stands for the signature: `v1,` and 32 bytes in base64.
const SIGNATURE: &str = "v1,SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS";
/// Bytes of a body: a user with a little metadata.
const BODY: usize = 2400;

type Signature = [u8; SIGNATURE.len()];

/// Webhooks numbered from 0, each with an id, a user and an address of its own.
pub struct Webhooks {
    first: usize,
    text: Vec<u8>,
    numbers: Vec<usize>,
    signature: usize,
    signatures: Vec<Signature>,
}

impl Webhooks {
    /// Makes and signs `count` of them on all cores. They are valid for five minutes.
    pub fn sign(count: usize) -> anyhow::Result<Self> {
        Self::sign_from(0, count)
    }

    /// Those that follow the first `first`.
    pub fn sign_from(first: usize, count: usize) -> anyhow::Result<Self> {
        let timestamp = Clock::System.now().timestamp();
        let (text, body) = text(timestamp)?;
        let numbers = places(&text, NUMBER);
        let signature = *places(&text, SIGNATURE).first().context("no place for the signature")?;
        let sign_some = |some: Range<usize>| -> anyhow::Result<Vec<Signature>> {
            let mut text = text.clone();
            some.map(|number| {
                let number = first + number;
                write_number(&mut text, &numbers, number);
                let signature = sign(SIGNING_SECRET, &svix_id(number), timestamp, &text[body..])?;
                Ok(signature.as_bytes().try_into()?)
            })
            .collect()
        };
        let cores = thread::available_parallelism()?.get();
        let share = count.div_ceil(cores);
        let signatures = thread::scope(|scope| {
            let sign_some = &sign_some;
            let threads: Vec<_> = (0..cores)
                .map(|core| (core * share).min(count)..((core + 1) * share).min(count))
                .map(|some| scope.spawn(move || sign_some(some)))
                .collect();
            let mut signatures = Vec::with_capacity(count);
            for thread in threads {
                let signed = thread.join().map_err(|_| anyhow::anyhow!("signing panicked"))?;
                signatures.extend(signed?);
            }
            anyhow::Ok(signatures)
        })?;
        Ok(Self {
            first,
            text,
            numbers,
            signature,
            signatures,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.signatures.len()
    }

    /// A request to be filled in, one for each connection.
    pub fn blank(&self) -> Vec<u8> {
        self.text.clone()
    }

    /// Turns a request into the one at `number` of these.
    pub fn fill(&self, request: &mut [u8], number: usize) {
        write_number(request, &self.numbers, self.first + number);
        request[self.signature..][..SIGNATURE.len()].copy_from_slice(&self.signatures[number]);
    }
}

/// The id of a message.
pub fn svix_id(number: usize) -> String {
    format!("msg_bench_{number:08}")
}

/// The address of its user.
pub fn email(number: usize) -> String {
    format!("person.{number:08}@example.com")
}

/// The user that it tells of.
pub fn user_id(number: usize) -> String {
    format!("user_bench_{number:08}")
}

/// A body as it is stored, for the yardsticks.
pub fn sample_body() -> anyhow::Result<String> {
    let (text, body) = text(0)?;
    Ok(String::from_utf8(text[body..].to_vec())?)
}

/// A whole request, and where its body begins.
fn text(timestamp: i64) -> anyhow::Result<(Vec<u8>, usize)> {
    let now = Clock::System.now();
    let mut user = FakeUser::new(
        format!("user_bench_{NUMBER}"),
        format!("person.{NUMBER}@example.com"),
        now,
    );
    user.first_name = Some("Ada".to_owned());
    user.last_name = Some("Lovelace".to_owned());
    let mut data = user.to_json();
    let length = event("user.created", data.clone(), now).to_string().len();
    let about = "x".repeat(BODY.saturating_sub(length + r#""about":"""#.len()));
    data["public_metadata"] = json!({ "about": about });
    let body = event("user.created", data, now).to_string();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: usher\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         svix-id: msg_bench_{NUMBER}\r\nsvix-timestamp: {timestamp}\r\nsvix-signature: {SIGNATURE}\r\n\r\n",
        body.len(),
    );
    Ok((format!("{head}{body}").into_bytes(), head.len()))
}

fn places(text: &[u8], what: &str) -> Vec<usize> {
    let windows = text.windows(what.len()).enumerate();
    windows
        .filter(|(_, window)| *window == what.as_bytes())
        .map(|(at, _)| at)
        .collect()
}

fn write_number(text: &mut [u8], places: &[usize], number: usize) {
    let digits = format!("{number:08}");
    for &at in places {
        text[at..at + NUMBER.len()].copy_from_slice(digits.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_webhook_is_a_whole_request_with_a_number_of_its_own() {
        let webhooks = Webhooks::sign(3).unwrap();
        let mut request = webhooks.blank();
        webhooks.fill(&mut request, 2);
        let text = String::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), BODY);
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.contains(&format!("svix-id: {}\r\n", svix_id(2))));
        assert!(body.contains(&email(2)));
        assert!(!text.contains(NUMBER) && !text.contains(SIGNATURE));
    }
}
