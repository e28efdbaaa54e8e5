//! What a server's reply means for the mail, for its address, and for all other mails.
//!
//! [`classify`] is the one place. Codes are used where they are unmistakable, words everywhere: servers disagree about
//! codes and are alike in words. The table of real replies in docs/delivery.md is the test.
//!
//! Three rules stand behind the lists. An address is condemned only by what is about that address. What is about us (the
//! sender, the account, how much or how fast we send, our standing) makes all mails wait, for no mail would fare better. What
//! is neither is tried again for two days and condemns nobody: to wait in vain costs little, to fail a day's mail a lot.

use super::failure::Step;
use super::smtp::{Reply, is_enhanced_code};

/// Whether the connection has served earlier mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    Used,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Sent,
    /// At once, and no attempt is spent.
    RetryOnFresh,
    RetryLater,
    /// All mails wait; one at a time tries.
    HoldAll,
    /// This mail is tried later; three such in a row without a success between them, and all wait.
    HoldAllIfRepeated,
    FailMail,
    FailAndSuppress,
}

/// The meaning of a reply at this step, over a connection of this age.
pub(crate) fn classify(step: Step, reply: &Reply, age: Age) -> Outcome {
    if (200..300).contains(&reply.code) && step == Step::End {
        return Outcome::Sent;
    }
    let said = Said::of(reply);
    let is_before_the_end = !matches!(step, Step::End);
    if age == Age::Used && is_before_the_end && (reply.is_temporary() || said.blames_the_connection(reply.code)) {
        return Outcome::RetryOnFresh;
    }
    match (step, reply.code) {
        (_, 400..500) => temporary(step, &said),
        (Step::Recipient | Step::Data | Step::End, 500..600) => of_one_mail(step, &said, reply.code),
        (_, 500..600) => of_the_session(step, &said),
        // A go-ahead at the wrong place.
        _ => Outcome::RetryLater,
    }
}

/// 4xx: whatever it is about, it passes. The question is who waits.
fn temporary(step: Step, said: &Said) -> Outcome {
    if said.any(GREYLISTED) || said.blames_the_connection(0) {
        return Outcome::RetryLater;
    }
    let is_about_one_recipient = said.is_about_a_full_mailbox() || said.any(BUSY_MAILBOX) || said.any(NO_SUCH_ADDRESS);
    // Login servers are away for a while, and say so in words of a failed login.
    let is_about_us = said.any(SENDER) || said.any(STANDING) || (step != Step::Login && said.any(LOGIN));
    if is_about_us || said.is_one_of(STANDING_CODES) {
        Outcome::HoldAll
    } else if is_about_one_recipient {
        Outcome::RetryLater
    } else if said.any(CONCURRENCY) {
        Outcome::HoldAllIfRepeated
    } else if said.any(QUOTA) {
        Outcome::HoldAll
    } else if said.any(RATE) || said.any(RELAY) || said.is_one_of(RATE_CODES) {
        Outcome::HoldAllIfRepeated
    } else if said.is_one_of(ADDRESS_CODES) || !said.any(POLICY) {
        Outcome::RetryLater
    } else {
        Outcome::HoldAllIfRepeated
    }
}

/// 5xx before anybody was named: no other mail would fare better.
fn of_the_session(step: Step, said: &Said) -> Outcome {
    if step == Step::Sender && said.is_about_this_message() {
        Outcome::FailMail
    } else if said.any(CONCURRENCY) || (!said.any(QUOTA) && (said.any(RATE) || said.blames_the_connection(0))) {
        Outcome::HoldAllIfRepeated
    } else {
        Outcome::HoldAll
    }
}

/// 5xx once the recipient is known: about the address, about us, about this mail, or nobody knows.
fn of_one_mail(step: Step, said: &Said, code: u16) -> Outcome {
    if said.is_one_of(PAIR_CODES) || said.any(PAIR) || said.any(GREYLISTED) || said.blames_the_connection(0) {
        return Outcome::RetryLater;
    }
    if said.any(SUPPRESSED_BY_PROVIDER) {
        return Outcome::FailAndSuppress;
    }
    let wants_a_login = matches!(code, 530 | 534 | 535 | 538);
    if wants_a_login
        || said.is_one_of(SENDER_CODES)
        || said.is_one_of(STANDING_CODES)
        || said.any(SENDER)
        || said.any(LOGIN)
        || said.any(STANDING)
        || said.blames_the_sending_account(step)
    {
        return Outcome::HoldAll;
    }
    if said.is_about_a_full_mailbox()
        || said.any(BUSY_MAILBOX)
        || (step == Step::Recipient && code == 552 && said.any(QUOTA))
    {
        return Outcome::RetryLater;
    }
    if said.is_about_this_message() {
        return Outcome::FailMail;
    }
    if said.any(CONCURRENCY) {
        return Outcome::HoldAllIfRepeated;
    }
    if said.any(QUOTA) {
        return Outcome::HoldAll;
    }
    if said.any(RATE) || said.any(RELAY) {
        return Outcome::HoldAllIfRepeated;
    }
    if said.condemns_the_address(code) {
        return Outcome::FailAndSuppress;
    }
    if said.any(CONTENT) || said.rejects_the_recipient() {
        return Outcome::RetryLater;
    }
    // 503 is a command out of order, which is nothing that a recipient could cause.
    if code == 503 || said.any(POLICY) || said.any(ACCOUNT_STATE) {
        return Outcome::HoldAllIfRepeated;
    }
    Outcome::RetryLater
}

// Patterns are words in lower case. `a|b` is either, `spam*` is any word that begins so, `..` are up to six words between.

const GREYLISTED: &[&str] = &["greylist*|graylist*", "grey|gray list*"];

/// A connection that is used up, or a conversation out of step.
const CONNECTION: &[&str] = &[
    "too many|much .. per|this|one|single|a|your session|connection|conversation",
    "max*|limit*|exceed* .. per|this|one|single|a session|connection|conversation",
    "session|conversation .. limit*|exceed*|max*|too",
    "per session|connection .. limit*|exceed*|max*|reached",
    "bad sequence",
    "nested mail",
    "sender already",
    "command out of",
];

/// The recipient wants no mail from this sender, and says nothing of others.
const PAIR: &[&str] = &[
    "recipient* .. has|have blocked|rejected|restricted",
    "blocked by|for .. recipient*|user",
    "allowed|accepted|approved senders list",
    "not .. authenticated for group",
    "restricted to .. senders",
    "only accept* .. from",
    "senders are authenticated",
];
/// Exchange: a group or a mailbox that takes mail from some only.
const PAIR_CODES: &[Codes] = &[(7, 124..=124), (7, 129..=129), (7, 133..=136)];

/// Providers keep lists of addresses that bounced.
const SUPPRESSED_BY_PROVIDER: &[&str] = &[
    "recipient*|address|addressee|user is|was|are|been|has|on|in|address|marked|previously|currently .. suppress*|suppression",
    "recipient*|address|addressee suppress*",
    "recipient*|addressee|user is|was|are|has .. inactive|unsubscribed",
    "inactive|suppressed|unsubscribed|blacklisted|blocklisted|hardbounced recipient*|addressee",
    "recipient is|was|has|address|been .. blacklist*|blocklist*|blocked",
    "hard bounce*|bounced",
];

/// What is said of the sender: its address, its domain, its right to send.
const SENDER: &[&str] = &[
    "sender* address*|domain*|identity|identities|signature*|id|verif*|email|mailbox|host|policy|reputation|rewrit*",
    "sender* .. reject*|denied|block*|refused|unknown|invalid|unverified|unauthorized|unauthorised|unauthenticated|failed|disabled|suspended|missing",
    "sender* .. not|must|doesnt|isnt|cannot|cant",
    "invalid|unknown|unauthorized|unauthorised|unauthenticated|unverified|bad|missing|forged|envelope|verified|unrecognized|unconfirmed|disallowed|wrong|blocked sender*",
    "header|envelope|return|reverse|from path|from|address|sender",
    "mail from",
    "from address*|header|domain|field",
    "from this|that|your|the address|domain|sender|email|account|header|ip|host|user|server|network|country",
    "send*|sent|submit* .. from|as this|that|your|the|another|unverified|different address|domain|sender|user|identity|account",
    "sending domain*|address*|server*|host*|ip|mta|limit*|quota*|rate|account|activity|privilege*|user|volume|reputation|system|is|has|was|from|not|paused|suspended|disabled|blocked|disallowed|temporarily",
    "outgoing|outbound",
    "unconfigured|unverified|unauthorized|unauthorised|unauthenticated|unregistered|unsigned .. domain|identity",
    "domain .. not|isnt|hasnt|never verified|validated|authenticated|configured|authorized|authorised|allowed|activated|active|registered|confirmed|enabled",
    "domain .. not|hasnt been|yet|fully verified|validated|authenticated|configured|authorized|authorised|activated|confirmed",
    "verify|validate|confirm|authenticate|add|register a|your|the|and|this domain|sender|email|identity|account",
    "is|are|was|not|isnt not|been|yet .. verified|confirmed|validated",
    "isnt verified|confirmed|validated",
    "send as|assasdenied",
    "sendas*",
    "on behalf",
    "not|isnt|arent|cannot|cant|never|longer allowed|permitted|authorized|authorised|eligible|enabled|entitled|able to send|submit|relay|perform|use|mail|deliver",
    "not allowed|permitted|authorized|authorised send*|submi*",
    "no|lack*|missing|insufficient permission*|rights|privileges .. send*|submit",
    "permission* to send|submit",
    "submission|smtp account|access|service|user|credential*|permission* .. disabled|suspended|blocked|denied|not|revoked|locked|expired|limit*",
    "smtp|api|access|license|licence key|token|account",
    "your account|domain|plan|subscription|organization|organisation|tenant|user|quota|credits|company|project|ip|host|server|network|provider|isp|mailserver|hostname|reputation",
    "ask your postmaster",
    "tenant",
    "your smtp|email|mail|sending account|plan|subscription|service|limit|quota|package",
    "ability|right|permission|access to send",
    "for|from|outgoing sending|submission",
    "authenticated|authorized|authorised|smtp|login user|sender|account",
    "in|the from|sender|mailfrom",
    "reply to address",
    "address|email|domain|identity|recipient not|isnt verified|confirmed|validated",
    "trial",
    "testing emails",
    "sandbox|testmode",
    "authorized|authorised recipient*",
    "test purposes|mode",
    "free|trial account*|plan|tier|version",
    "invalid dns",
    "dns mx|ptr",
    "mx or",
];
const SENDER_CODES: &[Codes] = &[
    (1, 7..=8),
    // Exchange Online: the day's recipients are used up.
    (1, 90..=90),
    (2, 252..=252),
    // RFC 3463 says congestion; Google, that a sending limit was reached.
    (4, 5..=5),
    (7, 3..=3),
    (7, 8..=14),
    (7, 57..=57),
    (7, 60..=60),
];

/// Login and encryption.
const LOGIN: &[&str] = &[
    "authentication|authentification|auth|login|logon required|needed|failed|failure|unsuccessful|first|rejected|error|invalid|missing|denied|command|incorrect",
    "must|please|need*|required|first|should|have|has .. authenticate|auth|login|logon|authenticated",
    "not|isnt authenticated|logged",
    "log|logged in|on",
    "credential*",
    "user*name|username and|or password",
    "password*",
    "unauthenticated",
    "starttls",
    "must issue",
    "tls|ssl|encryption|encrypted required|needed|first|session|connection|only|is",
    "require* .. tls|encryption|encrypted|ssl",
];

/// Where we send from, and what others think of us.
const STANDING: &[&str] = &[
    "spf",
    "dkim",
    "dmarc",
    "ptr",
    "rdns",
    "fcrdns",
    "reverse dns|hostname|host|lookup|record|mapping|name",
    "reverse .. dns",
    "cannot|cant|could find your|reverse",
    "helo|ehlo command|name|reject*|hostname|argument|required|first|not|is|invalid|must|string|domain|does|host",
    "invalid|bad|wrong|need|send|polite|require*|forged|your helo|ehlo",
    "client host|ip|address|blocked|rejected|denied|not|was|does|is|isnt|has",
    "ip address*|block*|listed|reputation|is|has|not|banned|denied|rejected|blacklist*|temporarily|rate|not|addr|range|you",
    "host|network|server|hostname|mta .. blacklist*|blocklist*|blocked|banned|listed|reputation",
    "connection*|messages|mail|mails|email|emails|message from .. not|block*|reject*|refused|deferred|denied|werent|wasnt|wont|limited|accepted",
    "block*|black*|deny* list*",
    "blocklist*|blacklist*|denylist*",
    "dnsbl*|rbl|rbls|dnswl|surbl|uribl|dbl|xbl|sbl|pbl|css",
    "spam cop|haus",
    "spamhaus|spamcop|barracuda*|sorbs|senderscore|senderbase|abusix|mailspike|cloudmark|trendmicro|talos",
    "blocked|listed|found using|at|in|on|by .. list|blocklist|lists",
    "blocked using",
    "listed at|in|on|by",
    "reputation",
    "user complaints",
    "complaint*",
    "unsolicited .. originating|from",
    "open relay|proxy",
    "dynamic|residential|dialup ip|address*|range|host",
    "whitelist*|allowlist*",
];
/// Mail without SPF, DKIM, DMARC or PTR (RFC 7372 and Google); Microsoft's banned senders, addresses and tenants.
const STANDING_CODES: &[Codes] = &[(7, 20..=32), (7, 501..=649), (7, 700..=799)];

const RELAY: &[&str] = &["relay*", "rcpthosts", "open proxy"];

/// How much we may send. Not how much a mailbox may hold: that is asked first.
const QUOTA: &[&str] = &[
    "quota*",
    "daily|hourly|weekly|monthly|day|hour|month .. limit*|maximum|max|allowance|allotment|cap|allowed|messages|emails|recipients|exceeded",
    "exceed* .. limit*|maximum|max|allowance|allowed|credits|threshold|allotment|cap|plan",
    "limit*|maximum|allowance|threshold|credit*|cap .. exceed*|reached|hit|used|over",
    "reached .. limit*|maximum|allowance|cap",
    "over .. limit|allowance",
    "credit|credits|balance",
    "billing|payment|invoice|unpaid|overdue|subscription|upgrade",
];

/// How many at a time.
const CONCURRENCY: &[&str] = &[
    "concurren*|simultaneous*",
    "connections|sessions limit*|exceed*|reached",
    "too many .. connections|sessions",
];

/// How fast. Others' mails may just have got through.
const RATE: &[&str] = &[
    "too much|fast|quickly|frequent*|often",
    "too many messages|emails|mails|email|mail|recipient*|requests|attempts|login*|connect*|commands|invalid|unknown|failed|bounce*|deliver*|concurrent|in|per",
    "rate|rates|ratelimit*",
    "throttl*",
    "slow* down",
    "per second|minute|hour|day|interval",
    "connection* limit*|rate",
    "unusual|unexpected .. activity|volume|traffic|rate|amount|number",
    "flood*",
    "burst",
];
/// Microsoft's throttles.
const RATE_CODES: &[Codes] = &[(7, 500..=500), (7, 650..=699)];

const FULL: &[&str] = &[
    "mailbox*|inbox|user*|recipient*|account|maildir|box|storage|disk .. full|overquota|overfull",
    "mailbox*|inbox|user*|recipient*|account|maildir|box|storage|disk .. over|exceed*|reached|out .. quota|storage|space|limit|size|allocation|capacity",
    "quota|storage|space|capacity .. mailbox|inbox|user|recipient*|maildir|box",
    "mailbox|inbox|user|recipient*|maildir|box|storage|disk quota|storage|space|capacity",
    "exceeded storage",
    "out of storage|space",
    "not enough|insufficient .. space|storage|room",
    "insufficient system|disk|storage|space",
    "over quota for",
];
const MAILBOX_CODES: &[Codes] = &[(2, 2..=2), (2, 121..=122)];

/// One mailbox that gets too much at the moment, from whomever.
const BUSY_MAILBOX: &[&str] = &[
    "receiving mail|email|emails|messages",
    "recipient*|mailbox|user .. receiv* rate|limit*|too",
    "message receive limit",
    "too many .. to|for this|that|the recipient|user|mailbox|address",
    "mailbox|user .. busy|locked",
];

/// The mailbox or its domain isn't there, or is for nobody.
const NO_SUCH_ADDRESS: &[&str] = &[
    "no such .. user*|mailbox*|recipient*|account*|address*|addressee|alias*|person|domain|host|local|here|destination|email",
    "nosuchuser",
    "unknown|invalid|nonexistent|nonexistant|unrouteable|unroutable|undeliverable|illegal|inactive|unrecognized|unrecognised|obsolete|dead user*|mailbox*|recipient*|account|address*|addressee|alias|rcpt|destination|local|or|email|virtual",
    "bad|wrong|incorrect|disabled|expired|closed|deleted recipient*|mailbox|destination|account|address",
    "non existent|existing|existant",
    "no mailbox*|box|user|account|recipient .. here|by|found|available|with|for|that|named|currently",
    "no mail box",
    "user*|mailbox*|recipient*|account*|address*|addressee|alias*|inbox|rcpt|destination|person|domain .. unknown|invalid|inactive|disabled|nonexistent|unavailable|deactivated|closed|deleted|expired|terminated|discontinued|unrouteable|unroutable|undeliverable|incorrect|obsolete|removed|moved|retired|abandoned|frozen",
    "user*|mailbox*|recipient*|account*|address*|addressee|alias*|inbox|rcpt|destination|person|domain .. not|doesnt|dont|didnt|never exist*",
    "user*|mailbox*|recipient*|account*|address*|addressee|alias*|inbox|rcpt|destination|person .. not|isnt|wasnt|couldnt|cannot|cant|unable found|find|known|valid|listed|local|available|active|recognized|recognised|registered|located|resolve*|determine|be|our",
    "user*|mailbox*|recipient*|account*|address*|addressee|alias*|inbox|rcpt|destination|person|domain .. no longer|more",
    "user*|mailbox*|recipient*|account*|address*|addressee|inbox|destination|domain .. not|doesnt|dont|never accept*|receiv*|take* .. mail|email|messages|any",
    "user*|recipient*|person|address .. doesnt|not|no have|has .. account|mailbox|inbox|email",
    "no|not|nor a|an|one|any valid|known|local|existing|active user*|mailbox*|recipient*|account|address*|addressee|alias",
    "user|recipient|mailbox|person .. not|isnt here|ours",
    "not have a|an|any .. mailbox|user|account|recipient|inbox",
    "not our|a customer",
    "not listed in",
    "mailbox name not",
    "address rejected",
    "user lookup success",
    "no user record",
    "null mx",
    "marked as invalid|inactive|bad",
    "domain .. unknown|nonexistent|expired",
    "domain .. not|isnt|wasnt found|exist*|accept*",
    "no valid|such|working mx|domain|host",
    "couldnt|unable|werent|not .. find the recipient",
    "account .. not|doesnt|no exist*|found|longer",
    "unbekannt*|inconnu*|desconocid*|sconosciut*|onbekend*|inexistent*|inesistente",
    "existiert|nexiste|existe|esiste|bestaat nicht|pas|non|niet",
    "no|nao|non existe|esiste",
    "nicht|pas|no gefunden|trouve|encontrad*",
];
/// The address may be well: nobody could find out.
const NOT_FOR_EVER: &[&str] = &[
    "temporar*",
    "try again later|soon|in",
    "later",
    "timed out",
    "timeout",
    "unverified address",
    "verification .. progress",
    "connection refused",
    "lookup failed|failure|error",
    "could not verify",
];
const ADDRESS_CODES: &[Codes] = &[
    (1, 1..=3),
    (1, 6..=6),
    (1, 10..=10),
    (2, 1..=1),
    // Exchange Online: the address' domain is not in the DNS.
    (4, 310..=310),
];

/// Said of the message, whoever gets it.
const MESSAGE: &[&str] = &[
    "message|mail|email|content|body|header* size",
    "message|mail|email|content|body|header* .. too large|big|long",
    "size .. exceed*|limit|too|maximum|larger",
    "exceed* .. size",
    "too large|big",
    "8bitmime|smtputf8|eai",
    "internationalized address*|email",
    "non ascii|utf8",
];
const MESSAGE_CODES: &[Codes] = &[(2, 3..=3), (3, 4..=4), (6, 1..=99)];

/// A filter's opinion of this message. Filters change their minds, and so do those who keep them.
const CONTENT: &[&str] = &[
    "content*",
    "spam*",
    "virus*|malware|trojan|infected",
    "phish*",
    "url*|link|links|attachment*",
    "bulk|junk",
    "subject",
    "header*",
    "unsolicited",
];

/// The server has rules that we don't meet; whose, it does not say.
const POLICY: &[&str] = &[
    "polic*",
    "prohibit*",
    "administrative*",
    "banned",
    "denied",
    "block*",
    "abuse",
    "permission*",
    "forbidden",
    "unauthorized|unauthorised|authorized|authorised|authorization",
    "sender*",
    "not accepted",
    "security",
    "restricted|restriction*",
];

/// A mailbox's account, or ours.
const ACCOUNT_STATE: &[&str] = &[
    "account .. suspend*|disabled|paused|locked|blocked|deactivated|expired|restricted|banned|limited|frozen|closed|pending|review|activated|active|inactive|hold",
    "suspend*|disabled|paused|locked|blocked|deactivated|expired|restricted|banned|inactive account",
];
/// That it is the recipient's.
const RECIPIENT_CONTEXT: &[&str] = &[
    "recipient*|mailbox|addressee|user|users",
    "tried to reach",
    "this|that|email account",
    "delivery|delivered|deliver|delivering",
    "message to",
];

/// Subject and details of an enhanced code, whatever its class.
type Codes = (u16, std::ops::RangeInclusive<u16>);

/// The reply, taken apart.
struct Said {
    words: Vec<String>,
    /// Subject and detail.
    code: Option<(u16, u16)>,
    /// Whether it named an address.
    has_address: bool,
    /// Whether it began with "Recipient address rejected", and then said why.
    rejects_recipient: bool,
}

impl Said {
    fn of(reply: &Reply) -> Self {
        let mut said = Self {
            words: Vec::new(),
            code: None,
            has_address: false,
            rejects_recipient: false,
        };
        for token in reply.lines.iter().flat_map(|line| line.split_whitespace()) {
            said.take(token);
        }
        said.take_prefix();
        said
    }

    fn take(&mut self, token: &str) {
        let is_edge = |c: char| !c.is_alphanumeric();
        let bare = token.trim_matches(is_edge);
        if is_enhanced_code(bare) {
            let mut parts = bare.split('.').skip(1).filter_map(|part| part.parse().ok());
            if let (None, Some(subject), Some(detail)) = (self.code, parts.next(), parts.next()) {
                self.code = Some((subject, detail));
            }
        } else if token.contains('@') {
            // Whoever has `quota@` or `spam.sender@` for an address said nothing with it.
            self.has_address = true;
        } else if token.contains("://") || is_host_or_ip(bare) {
            // Lists are known by their hosts' names.
            if let Some(list) = BLOCK_LISTS.iter().find(|list| bare.contains(*list)) {
                self.words.push((*list).to_owned());
            }
        } else {
            self.push_words(token);
        }
    }

    /// As Postfix begins, whatever it is about.
    fn take_prefix(&mut self) {
        const PREFIX: [&str; 3] = ["recipient", "address", "rejected"];
        let begins = self.words.windows(PREFIX.len()).position(|words| words == PREFIX);
        if let Some(begins) = begins.filter(|begins| begins + PREFIX.len() < self.words.len()) {
            self.words.drain(begins..begins + PREFIX.len());
            self.rejects_recipient = true;
        }
    }

    /// `SendAsDenied`, `rate-limited`, `doesn't`.
    fn push_words(&mut self, token: &str) {
        let mut word = String::new();
        let mut after_lower = false;
        for c in token.chars() {
            if matches!(c, '\'' | '’' | '`') {
                continue;
            }
            if !c.is_alphanumeric() || (c.is_uppercase() && after_lower) {
                self.push(&mut word);
            }
            if c.is_alphanumeric() {
                word.extend(c.to_lowercase());
            }
            after_lower = c.is_lowercase();
        }
        self.push(&mut word);
    }

    fn push(&mut self, word: &mut String) {
        if !word.is_empty() {
            self.words.push(std::mem::take(word));
        }
    }

    fn is_one_of(&self, codes: &[Codes]) -> bool {
        self.code.is_some_and(|(subject, detail)| {
            codes
                .iter()
                .any(|(of, details)| *of == subject && details.contains(&detail))
        })
    }

    fn any(&self, patterns: &[&str]) -> bool {
        patterns.iter().any(|pattern| self.says(pattern))
    }

    fn says(&self, pattern: &str) -> bool {
        let pattern: Vec<&str> = pattern.split(' ').collect();
        (0..self.words.len()).any(|start| begins_with(&self.words[start..], &pattern))
    }

    fn blames_the_connection(&self, code: u16) -> bool {
        code == 503 || self.any(CONNECTION)
    }

    fn is_about_a_full_mailbox(&self) -> bool {
        self.is_one_of(MAILBOX_CODES) || self.any(FULL)
    }

    fn is_about_this_message(&self) -> bool {
        self.is_one_of(MESSAGE_CODES) || self.any(MESSAGE)
    }

    /// "Account disabled" is said of invitees' mailboxes and of our own account. After the content only ours is left to
    /// speak of, unless the words say otherwise; before it the words decide.
    fn blames_the_sending_account(&self, step: Step) -> bool {
        step != Step::Recipient
            && self.any(ACCOUNT_STATE)
            && !self.any(RECIPIENT_CONTEXT)
            && !self.is_one_of(ADDRESS_CODES)
    }

    fn condemns_the_address(&self, code: u16) -> bool {
        if self.any(NOT_FOR_EVER) {
            return false;
        }
        let is_account_alone = self.any(ACCOUNT_STATE) && !self.any(RECIPIENT_CONTEXT) && !self.has_address;
        let by_words = self.any(NO_SUCH_ADDRESS)
            && !self.any(&["sender*"])
            && (!is_account_alone || self.is_one_of(ADDRESS_CODES));
        let by_code = self.is_one_of(ADDRESS_CODES) && !self.any(CONTENT) && !self.any(&["sender*"]);
        // RFC 7505 and RFC 5321: a domain that takes no mail, a user who is not here.
        let by_basic_code = code == 556 || (code == 551 && self.code.is_none() && !self.any(POLICY));
        by_words || by_code || by_basic_code || self.is_unknown_to_exchange(code)
    }

    /// `550 5.4.1 Recipient address rejected: Access denied`: what Exchange Online says of addresses that a domain doesn't
    /// have (Directory-Based Edge Blocking), and nobody else with this code.
    fn is_unknown_to_exchange(&self, code: u16) -> bool {
        code == 550 && self.code == Some((4, 1)) && self.rejects_recipient && self.says("access denied")
    }

    /// By hand, by whoever keeps the server: for this recipient only, and nobody says why.
    fn rejects_the_recipient(&self) -> bool {
        self.rejects_recipient && self.says("access denied")
    }
}

const BLOCK_LISTS: &[&str] = &[
    "spamhaus",
    "spamcop",
    "barracuda",
    "sorbs",
    "dnsbl",
    "rbl",
    "uribl",
    "surbl",
    "abusix",
    "mailspike",
    "senderscore",
];

/// Names of hosts, in which any word may stand. Capitals make it words of a program, `STOREDRV.Submission`.
fn is_host_or_ip(token: &str) -> bool {
    let labels = token.split('.').count();
    let is_name = labels > 1
        && token.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
        && !token.bytes().any(|byte| byte.is_ascii_uppercase());
    is_name || token.parse::<std::net::IpAddr>().is_ok()
}

fn begins_with(words: &[String], pattern: &[&str]) -> bool {
    const GAP: usize = 6;
    match pattern {
        [] => true,
        ["..", rest @ ..] => (0..=GAP.min(words.len())).any(|skipped| begins_with(&words[skipped..], rest)),
        [either, rest @ ..] => words
            .split_first()
            .is_some_and(|(word, words)| is_either(word, either) && begins_with(words, rest)),
    }
}

fn is_either(word: &str, pattern: &str) -> bool {
    pattern.split('|').any(|choice| match choice.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == choice,
    })
}

#[cfg(test)]
mod tests;
