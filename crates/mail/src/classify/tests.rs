//! The table of docs/delivery.md, line by line.

use super::*;

struct Line<'a> {
    provider: &'a str,
    step: Step,
    age: Age,
    reply: Reply,
    outcome: &'a str,
}

fn step(name: &str) -> Step {
    match name {
        "greeting" => Step::Greeting,
        "EHLO" => Step::Hello,
        "STARTTLS" => Step::StartTls,
        "AUTH" => Step::Login,
        "RSET" => Step::Reset,
        "MAIL" => Step::Sender,
        "RCPT" => Step::Recipient,
        "DATA" => Step::Data,
        "end" => Step::End,
        other => panic!("no step is called {other}"),
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Sent => "sent",
        Outcome::RetryOnFresh => "retry on a fresh connection",
        Outcome::RetryLater => "retry later",
        Outcome::HoldAll => "wait for all mail",
        Outcome::HoldAllIfRepeated => "wait for all mail, if repeated",
        Outcome::FailMail => "fail this mail",
        Outcome::FailAndSuppress => "fail and suppress",
    }
}

fn reply(text: &str) -> Reply {
    let lines: Vec<&str> = text.split(" ↵ ").collect();
    for (i, line) in lines.iter().enumerate() {
        let goes_on = line.as_bytes().get(3) == Some(&b'-');
        assert_eq!(
            goes_on,
            i + 1 < lines.len(),
            "the last line of a reply, and no other, has no hyphen: {text}"
        );
    }
    Reply {
        code: lines[0][..3].parse().unwrap_or_else(|_| panic!("{text} has no code")),
        lines: lines
            .iter()
            .map(|line| line[3..].trim_start_matches(['-', ' ']).to_owned())
            .collect(),
    }
}

/// Lines of the table: provider, step, reply, outcome.
fn table() -> Vec<Line<'static>> {
    let docs = include_str!("../../../../docs/delivery.md");
    let (_, table) = docs
        .split_once("| provider | step | reply | outcome |\n|---|---|---|---|\n")
        .unwrap();
    let lines = table.lines().take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [provider, at, said, outcome] = cells[..] else {
                panic!("{line}")
            };
            let (at, age) = match at.strip_suffix(", used") {
                Some(at) => (at, Age::Used),
                None => (at, Age::Fresh),
            };
            Line {
                provider,
                step: step(at),
                age,
                reply: reply(said.trim_matches('`')),
                outcome,
            }
        })
        .collect()
}

#[test]
fn replies_mean_what_the_table_in_the_docs_says() {
    let table = table();
    assert!(table.len() > 150, "{}", table.len());
    let mut wrong = Vec::new();
    for Line {
        provider,
        step,
        age,
        reply,
        outcome,
    } in table
    {
        let found = name(classify(step, &reply, age));
        if found != outcome {
            wrong.push(format!(
                "{provider}, {step:?}: {}\n    is “{found}”, not “{outcome}”",
                reply.on_one_line()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_used_connection_is_replaced_for_any_4xx_before_the_end() {
    for (step, age) in [Step::Reset, Step::Sender, Step::Recipient, Step::Data, Step::End]
        .into_iter()
        .flat_map(|step| [(step, Age::Used), (step, Age::Fresh)])
    {
        for text in [
            "421 bye",
            "450 4.2.0 greylisted",
            "451 4.7.1 sender address rejected",
            "452 4.3.1 full",
            "454 no",
        ] {
            let is_fresh_wanted = classify(step, &reply(text), age) == Outcome::RetryOnFresh;
            assert_eq!(
                is_fresh_wanted,
                age == Age::Used && step != Step::End,
                "{step:?} {age:?} {text}"
            );
        }
    }
}

#[test]
fn an_address_says_nothing_by_its_own_words() {
    for address in [
        "quota@example.com",
        "<spam.sender@rate-limit.example>",
        "relay@spf.example",
        "(account.suspended@x.example)",
    ] {
        let outcome = |text: &str| classify(Step::Recipient, &reply(&text.replace("ADDRESS", address)), Age::Fresh);
        assert_eq!(
            outcome("550 5.1.1 ADDRESS: no such user"),
            Outcome::FailAndSuppress,
            "{address}"
        );
        assert_eq!(
            outcome("550 ADDRESS… User unknown"),
            Outcome::FailAndSuppress,
            "{address}"
        );
        assert_eq!(
            outcome("450 4.2.0 ADDRESS: Greylisted"),
            Outcome::RetryLater,
            "{address}"
        );
        assert_eq!(outcome("550 no, ADDRESS"), Outcome::RetryLater, "{address}");
        assert_eq!(
            outcome("550 5.1.2 quota.example: host unknown, sent to ADDRESS"),
            Outcome::FailAndSuppress,
            "{address}"
        );
    }
}

#[test]
fn nobody_is_condemned_by_a_4xx_or_before_they_were_named() {
    for text in [
        "50 5.1.1 no such user",
        "50 mailbox unavailable",
        "54 5.2.1 account disabled",
    ] {
        for (step, class) in [
            (Step::Recipient, 4),
            (Step::End, 4),
            (Step::Sender, 5),
            (Step::Greeting, 5),
        ] {
            let outcome = classify(step, &reply(&format!("{class}{text}")), Age::Fresh);
            assert!(
                !matches!(outcome, Outcome::FailAndSuppress | Outcome::FailMail),
                "{step:?} {text}"
            );
        }
    }
}

#[test]
fn patterns_are_words_and_not_pieces_of_them() {
    let says = |text: &str, pattern: &str| Said::of(&reply(text)).says(pattern);
    assert!(says("550 Rate-limited", "rate"));
    assert!(!says("550 separate moderate", "rate"));
    assert!(says(
        "550 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException",
        "send as denied"
    ));
    assert!(says(
        "550 the account that you tried to reach is disabled",
        "account .. disabled"
    ));
    assert!(says("550 user doesn't exist", "doesnt exist*"));
    assert!(!says("550 a b c d e f g h disabled", "a .. disabled"));
    assert_eq!(Said::of(&reply("550 sorry (#5.7.1)")).code, Some((7, 1)));
    assert_eq!(Said::of(&reply("550 #5.1.0 Address rejected.")).code, Some((1, 0)));
}

/// MailContext that no line of the table has: the rules are about kinds, and a new provider finds new words for them.
#[test]
fn unknown_words_of_known_kinds_come_out_right() {
    for (expected, replies) in UNKNOWN_WORDS {
        for &(at, text) in *replies {
            let outcome = classify(step(at), &reply(text), Age::Fresh);
            let is_expected = match outcome {
                Outcome::HoldAll | Outcome::HoldAllIfRepeated => *expected == "us",
                Outcome::FailAndSuppress => *expected == "the address",
                Outcome::FailMail => *expected == "the message",
                Outcome::RetryLater => *expected == "neither",
                Outcome::Sent | Outcome::RetryOnFresh => false,
            };
            assert!(is_expected, "{at} {text}: {outcome:?}, though it is about {expected}");
        }
    }
}

type About = (&'static str, &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const UNKNOWN_WORDS: &[About] = &[
    ("us", &[
        ("end", "550 Message rejected: your SMTP plan has run out of messages for this month"),
        ("end", "550 5.7.1 Your domain acme.example has not been verified with us"),
        ("RCPT", "550 5.7.1 You have exceeded the number of messages allowed for your account today"),
        ("end", "554 5.7.1 Account temporarily suspended for sending"),
        ("end", "550 5.7.1 Monthly sending allowance used up"),
        ("MAIL", "550 5.7.1 You may not use this From address"),
        ("RCPT", "550 5.7.1 You may not use this From address"),
        ("end", "550 5.7.1 The sending account has been frozen by the administrator"),
        ("end", "550 Sending disabled for this user"),
        ("end", "554 5.7.1 User usher@acme.example has exceeded its 24-hour sending limit. Messages to 25 recipients out of 25 allowed have been sent."),
        ("RCPT", "550 5.7.1 Mail quota for sender exceeded"),
        ("end", "550 5.7.1 SPF check failed for acme.example"),
        ("end", "550 5.7.1 DMARC policy violation"),
        ("end", "550 5.7.20 No passing DKIM signature found"),
        ("RCPT", "554 5.7.1 Your IP is listed at b.barracudacentral.org"),
        ("RCPT", "550 Your host 192.0.2.1 is blacklisted"),
        ("RCPT", "550 5.7.1 192.0.2.1 has a poor reputation"),
        ("RCPT", "550 5.7.1 TLS required"),
        ("MAIL", "550 5.7.11 Encryption required for this sender"),
        ("RCPT", "550 5.7.10 Encryption needed"),
        ("end", "554 rate limit exceeded for this API key"),
        ("end", "450 4.7.1 Error: too much mail from acme.example"),
        ("end", "421 4.7.0 Too many messages, slow down"),
        ("end", "452 4.2.1 Messages per second limit exceeded"),
        ("MAIL", "452 4.4.5 Messages per second limit exceeded"),
        ("MAIL", "452 4.5.3 Daily message limit exceeded"),
        ("end", "550 5.7.0 Daily limit of 200 emails reached"),
        ("end", "550 5.7.1 Hourly limit has been hit"),
        ("end", "451 4.7.1 Sending rate too high"),
        ("end", "550 5.7.1 Sending suspended pending review"),
        ("end", "550 5.7.1 Account on hold"),
        ("end", "550 5.7.1 We have disabled your ability to send"),
        ("end", "535 5.7.8 Bad credentials"),
        ("RCPT", "550 5.7.1 Must be authenticated to send"),
        ("RCPT", "550 Authentication is required for relay"),
        ("RCPT", "550 5.7.1 no-reply@acme.example is not a permitted sender for user usher"),
        ("end", "550 5.7.1 The domain in From: is not allowed for this account"),
        ("end", "554 5.7.1 Sender domain must match authenticated domain"),
        ("RCPT", "550 5.7.27 Sender address has null MX"),
        ("RCPT", "550 5.1.8 Domain of sender address acme.example does not exist"),
        ("RCPT", "550 5.1.0 Domain of sender address does not exist"),
        ("RCPT", "450 4.1.8 Domain of sender address acme.example does not resolve"),
        ("end", "550 unable to verify sender"),
        ("end", "550 subscription expired"),
        ("end", "550 Trial period is over"),
        ("end", "550 5.7.1 No active subscription found for this account"),
        ("end", "550 5.7.1 API user is banned"),
        ("end", "554 5.7.1 Insufficient credits"),
        ("end", "554 5.7.1 Insufficient balance to send"),
        ("RCPT", "421 Service refused, too many simultaneous connections"),
        ("RCPT", "550 5.7.1 Message throttled"),
        ("RCPT", "550 Sender quota exceeded"),
        ("RCPT", "452 Sender has reached its sending quota"),
        ("end", "550 5.7.1 Policy violation: acme.example is on our blocklist"),
        ("RCPT", "550 HELO name invalid"),
        ("RCPT", "550 5.7.1 Helo command rejected: Host not found"),
        ("RCPT", "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
        ("EHLO", "550 Access denied - Invalid HELO name"),
        ("RCPT", "550 5.7.1 Your account does not exist"),
        ("AUTH", "535 5.7.8 user unknown"),
        ("MAIL", "550 No such account: usher"),
        ("RCPT", "550 5.1.0 no-reply@acme.example sender rejected, unknown user"),
        ("RCPT", "550 5.7.1 sending user not found"),
        ("end", "550 From address not found"),
        ("end", "550 The sending domain acme.example could not be found"),
        ("end", "550 5.7.1 API key not found"),
        ("RCPT", "554 5.7.1 authenticated user has no mailbox"),
        ("RCPT", "550 unknown sender"),
        ("RCPT", "550 5.1.7 invalid address"),
        ("RCPT", "550 Mailbox usher@acme.example is not allowed to send"),
        ("RCPT", "550 account disabled"),
        ("RCPT", "550 5.7.1 account disabled for outgoing"),
        ("RCPT", "550 SMTP user disabled"),
        ("RCPT", "550 5.2.1 Your mailbox has been disabled for sending"),
        ("RCPT", "550 user is not permitted to send"),
        ("RCPT", "550 5.1.1 Sender's mailbox unavailable"),
        ("RCPT", "550 No valid SPF record found for sender"),
        ("RCPT", "554 5.1.8 domain not found"),
        ("RCPT", "550 DNS lookup failed: domain acme.example does not exist (sender)"),
        ("RCPT", "550 5.7.1 Reverse DNS does not exist"),
        ("RCPT", "550 HELO domain does not exist"),
        ("RCPT", "550 No DKIM record found"),
        ("RCPT", "550 Invalid address in From"),
        ("RCPT", "550 MX record of your domain not found"),
        ("RCPT", "550 Recipient limit exceeded"),
        ("RCPT", "550 5.5.3 too many recipients"),
        ("end", "550 recipient address not verified (sandbox)"),
        ("RCPT", "554 5.7.1 <acme.example[192.0.2.1]>: Client host rejected: Access denied"),
        ("RCPT", "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]"),
        ("end", "554 5.7.1 Message rejected because of unacceptable sender domain reputation"),
        ("end", "550 5.7.0 Sending quota for this hour is used up"),
        ("RCPT", "452 4.7.1 hourly sending quota"),
        ("end", "554 Your SMTP credentials have been revoked"),
        ("end", "550 5.7.1 mailbox no-reply@acme.example not owned by authenticated user"),
        ("end", "550 Emails from this domain are disabled"),
        ("end", "550 5.7.1 sender not allowed"),
        ("end", "450 4.7.26 This mail has been rate limited because the sender is unauthenticated"),
        ("end", "550 quota"),
        ("RCPT", "550 5.7.1 Rate limited"),
        ("end", "554 5.7.1 blocked by SpamCop"),
        ("end", "550 JunkMail rejected - acme.example [192.0.2.1] is in an RBL: http://www.spamhaus.org"),
    ]),
    ("the address", &[
        ("RCPT", "550 5.1.1 recipient does not exist here"),
        ("RCPT", "550 No mailbox by that name is currently available"),
        ("RCPT", "550 User unknown"),
        ("RCPT", "550 Unknown recipient"),
        ("RCPT", "550 Mailbox not found"),
        ("RCPT", "550 mailbox unavailable"),
        ("RCPT", "550 Recipient not found"),
        ("RCPT", "550 invalid mailbox"),
        ("RCPT", "550 this user doesn't exist"),
        ("RCPT", "550 5.1.1 unknown or illegal alias: ada@example.com"),
        ("RCPT", "550 The address you tried to reach is no longer in use"),
        ("RCPT", "550 5.2.1 This account is no longer active"),
        ("RCPT", "550 User account is disabled"),
        ("RCPT", "550 5.2.1 Mailbox disabled"),
        ("RCPT", "554 5.2.1 mailbox is inactive"),
        ("RCPT", "550 ada@example.com no such address"),
        ("RCPT", "550 5.1.6 Recipient has moved"),
        ("RCPT", "550 5.1.2 Host unknown"),
        ("RCPT", "550 5.1.2 Bad destination system address"),
        ("RCPT", "550 Domain example.com does not exist"),
        ("RCPT", "550 5.1.10 Null MX"),
        ("RCPT", "550 No such local user"),
        ("RCPT", "550 Not a valid recipient"),
        ("RCPT", "550 Address unknown"),
        ("RCPT", "550 That user is not here"),
        ("RCPT", "550 Addressee unknown"),
        ("RCPT", "553 5.3.0 ada@example.com... No such user here"),
        ("RCPT", "554 5.1.1 Recipient unknown"),
        ("RCPT", "550 5.1.1 RESOLVER.ADR.ExRecipNotFound; not found"),
        ("end", "550 5.1.1 user unknown"),
        ("end", "550 5.1.1 Recipient not found"),
        ("RCPT", "550 5.1.1 The recipient's account has been deleted"),
        ("RCPT", "550 5.1.1 no-such-user"),
        ("RCPT", "550 mail for ada@example.com is not accepted here: user unknown"),
        ("RCPT", "550 5.1.1 <quota@example.com>: mailbox unknown"),
        ("RCPT", "550 5.1.1 spam.sender@acme.example does not exist"),
        ("RCPT", "550 we do not have a mailbox for ada@example.com"),
        ("RCPT", "550 5.1.1 Email address is not registered"),
        ("RCPT", "550 5.0.0 User unknown"),
        ("RCPT", "550 5.7.1 User unknown"),
        ("RCPT", "550 Recipient verify failed: no such user"),
        ("RCPT", "550 5.1.1 not authorized"),
        ("RCPT", "550 5.1.1 <ada@example.com> Recipient not found. <http://x4.net/faq/reject>"),
        ("RCPT", "550 permanent failure: no such recipient"),
        ("RCPT", "550 5.1.1 Recipient invalid"),
        ("RCPT", "550 #5.1.0 Address rejected ada@example.com"),
        ("RCPT", "550 Recipient address rejected"),
        ("RCPT", "550 5.1.0 <ada@example.com> User unknown; rejecting"),
        ("RCPT", "501 invalid address"),
        ("RCPT", "550 5.1.1 Invalid recipient, please check the spelling and send again"),
        ("RCPT", "550 5.1.1 Mailbox \"ada\" unknown"),
        ("RCPT", "511 sorry, no mailbox here by that name (#5.1.1 - chkuser)"),
        ("RCPT", "550 5.1.1 User doesn't exist: ada@example.com"),
        ("RCPT", "551 not our user"),
    ]),
    ("neither", &[
        ("RCPT", "550 go away"),
        ("RCPT", "550 5.0.0 something failed"),
        ("RCPT", "554 transaction failed"),
        ("end", "554 5.6.0 hm"),
        ("end", "550 nope"),
        ("RCPT", "550 5.3.0 internal error"),
        ("RCPT", "550 5.4.6 mail loop detected"),
        ("RCPT", "550 5.4.7 delivery time expired"),
        ("RCPT", "550 5.2.0 mailbox over storage limit"),
        ("RCPT", "550 User's mailbox is full"),
        ("RCPT", "550 5.2.2 Quota exceeded"),
        ("RCPT", "552 user quota exceeded"),
        ("RCPT", "554 5.2.2 The recipient's mailbox is full and can't accept messages now"),
        ("RCPT", "552 Mailbox size limit exceeded"),
        ("RCPT", "450 4.2.2 mailbox quota exceeded"),
        ("RCPT", "452 4.2.2 insufficient space in mailbox"),
        ("RCPT", "451 4.4.1 no answer from host"),
        ("RCPT", "451 greylisted, try again in 5 minutes"),
        ("RCPT", "450 please try again later"),
        ("RCPT", "450 mailbox busy"),
        ("RCPT", "450 4.2.1 mailbox temporarily disabled"),
        ("RCPT", "550 5.2.1 user is receiving too much mail right now"),
        ("end", "554 5.7.1 content rejected"),
        ("end", "550 5.7.1 message contains a suspicious link"),
        ("end", "554 virus found"),
        ("RCPT", "550 5.7.1 the recipient has blocked this sender"),
        ("RCPT", "421 4.3.2 system shutting down"),
        ("MAIL", "451 4.3.2 system not accepting network messages"),
        ("MAIL", "452 4.3.1 mail system full"),
        ("greeting", "421 service not available"),
        ("greeting", "421 4.4.2 timeout exceeded"),
        ("RCPT", "450 4.7.0 internal error"),
        ("RCPT", "451 DNS lookup failed for example.com"),
        ("RCPT", "421 4.7.0 Error: too many errors"),
        ("RCPT", "550 5.1.1 <ada@example.com>: Recipient address rejected: unverified address: connect to mx.example.com[192.0.2.9]:25: Connection timed out"),
        ("RCPT", "550 5.1.1 <ada@example.com>: Recipient address rejected: temporary lookup failure"),
    ]),
    ("the message", &[
        ("end", "552 message too large"),
        ("end", "554 5.3.4 message exceeds maximum size"),
        ("MAIL", "552 5.3.4 size limit exceeded"),
        ("end", "523 the message size exceeds limits"),
        ("RCPT", "550 5.6.7 non-ASCII addresses not permitted for that sender/recipient"),
    ]),
];
