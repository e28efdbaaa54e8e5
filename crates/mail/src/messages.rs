//! The mails that usher sends: listed once, one struct each. What a template may say is what its struct holds.

use std::{fmt, str::FromStr};

use chrono::{DateTime, TimeZone, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use url::Url;

use super::{
    templates::Language,
    text::{Lines, Name, OneLine},
};

/// Every mail is one line here: its struct, the folder of its templates, and whether its reader never asked for it.
macro_rules! mails {
    ($($mail:ident = $template:literal, unsolicited: $unsolicited:literal;)+) => {
        /// The mails that usher sends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum MailKind {
            $(
                #[doc = concat!("See [`struct@", stringify!($mail), "`].")]
                $mail,
            )+
        }

        impl MailKind {
            /// Every mail there is.
            pub const ALL: &'static [Self] = &[$(Self::$mail),+];

            /// The folder of its templates, and its name in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$mail => $template,)+
                }
            }

            /// Whether its reader never asked for it.
            #[must_use]
            pub fn is_unsolicited(self) -> bool {
                match self {
                    $(Self::$mail => $unsolicited,)+
                }
            }

            /// An example with everything in it, for previews and for checking templates.
            #[must_use]
            pub fn sample(self) -> Mail {
                match self {
                    $(Self::$mail => $mail::sample().into(),)+
                }
            }

            /// An example without anything optional: the other branch of every `{{#if}}`.
            #[must_use]
            pub fn bare_sample(self) -> Mail {
                match self {
                    $(Self::$mail => $mail::bare_sample().into(),)+
                }
            }
        }

        /// A mail: the values that its templates need.
        #[derive(Debug, Clone)]
        pub enum Mail {
            $(
                #[doc = concat!("See [`struct@", stringify!($mail), "`].")]
                $mail($mail),
            )+
        }

        impl Mail {
            /// Which mail it is.
            #[must_use]
            pub fn kind(&self) -> MailKind {
                match self {
                    $(Self::$mail(_) => MailKind::$mail,)+
                }
            }

            /// What its templates may say, an object, in this language.
            pub(crate) fn context(&self, language: &Language) -> Value {
                match self {
                    $(Self::$mail(mail) => mail.context(language),)+
                }
            }

            /// The names in it, by what its templates call them.
            fn names(&self) -> Vec<(&'static str, Option<&Name>)> {
                match self {
                    $(Self::$mail(mail) => mail.names(),)+
                }
            }
        }

        $(
            impl From<$mail> for Mail {
                fn from(mail: $mail) -> Self {
                    Self::$mail(mail)
                }
            }
        )+
    };
}

mails! {
    OrganizationInvite = "organization_invite", unsolicited: true;
    ProjectInvite = "project_invite", unsolicited: true;
    Reminder = "reminder", unsolicited: true;
    AcceptedNotice = "accepted_notice", unsolicited: false;
}

impl Mail {
    /// What the template of its subject may say: the same, names as subjects have them. One of which nothing is left there
    /// is as one that is not known.
    pub(crate) fn subject_context(&self, language: &Language) -> Value {
        let (mut words, bare) = (self.context(language), self.kind().bare_sample());
        let optional = bare.names();
        for (key, name) in self.names() {
            let is_optional = optional.contains(&(key, None));
            let told = name.filter(|name| !is_optional || name.is_told_in_subject());
            words[key] = told.map(Name::in_subject).into();
        }
        words
    }
}

/// Invites somebody into an organization.
#[derive(Debug, Clone)]
pub struct OrganizationInvite {
    /// What the app calls itself.
    pub app_name: OneLine,
    /// The organization to join.
    pub organization_name: Name,
    /// Who invites, if usher knows a name.
    pub inviter_name: Option<Name>,
    /// The role that the invitee will have.
    pub role: OneLine,
    /// What the inviter wants to say.
    pub message: Option<Lines>,
    /// Where the invite is accepted.
    pub link: AcceptLink,
    /// The first moment at which the link no longer works.
    pub expires_at: DateTime<Utc>,
    /// The invited address: the one to sign up with.
    pub email: OneLine,
}

impl OrganizationInvite {
    fn context(&self, language: &Language) -> Value {
        json!({
            "app_name": self.app_name,
            "organization_name": self.organization_name,
            "inviter_name": self.inviter_name,
            "role": language.role(self.role.as_str()),
            "message": self.message,
            "link": self.link,
            "expires_at": language.date(self.expires_at),
            "email": self.email,
        })
    }

    fn names(&self) -> Vec<(&'static str, Option<&Name>)> {
        vec![
            ("organization_name", Some(&self.organization_name)),
            ("inviter_name", self.inviter_name.as_ref()),
        ]
    }

    /// An example with everything in it.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            app_name: "Example".into(),
            organization_name: "Analytical Engines".into(),
            inviter_name: Some("Ada Lovelace".into()),
            role: "admin".into(),
            message: Some("Charles told me that you know Bernoulli numbers.\nCome and help!".into()),
            link: AcceptLink::sample(),
            expires_at: sample_expiry(),
            email: "grace@example.com".into(),
        }
    }

    /// An example without anything optional.
    #[must_use]
    pub fn bare_sample() -> Self {
        Self {
            inviter_name: None,
            message: None,
            ..Self::sample()
        }
    }
}

/// Invites somebody into one project of an organization.
#[derive(Debug, Clone)]
pub struct ProjectInvite {
    /// What the app calls itself.
    pub app_name: OneLine,
    /// The organization that the project belongs to.
    pub organization_name: Name,
    /// The project to join.
    pub project_name: Name,
    /// Who invites, if usher knows a name.
    pub inviter_name: Option<Name>,
    /// The role that the invitee will have in the project.
    pub role: OneLine,
    /// What the inviter wants to say.
    pub message: Option<Lines>,
    /// Where the invite is accepted.
    pub link: AcceptLink,
    /// The first moment at which the link no longer works.
    pub expires_at: DateTime<Utc>,
    /// The invited address: the one to sign up with.
    pub email: OneLine,
}

impl ProjectInvite {
    fn context(&self, language: &Language) -> Value {
        json!({
            "app_name": self.app_name,
            "organization_name": self.organization_name,
            "project_name": self.project_name,
            "inviter_name": self.inviter_name,
            "role": language.role(self.role.as_str()),
            "message": self.message,
            "link": self.link,
            "expires_at": language.date(self.expires_at),
            "email": self.email,
        })
    }

    fn names(&self) -> Vec<(&'static str, Option<&Name>)> {
        vec![
            ("organization_name", Some(&self.organization_name)),
            ("project_name", Some(&self.project_name)),
            ("inviter_name", self.inviter_name.as_ref()),
        ]
    }

    /// An example with everything in it.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            app_name: "Example".into(),
            organization_name: "Analytical Engines".into(),
            project_name: "Difference Engine No. 2".into(),
            inviter_name: Some("Ada Lovelace".into()),
            role: "editor".into(),
            message: Some("The drawings are in the first folder.".into()),
            link: AcceptLink::sample(),
            expires_at: sample_expiry(),
            email: "grace@example.com".into(),
        }
    }

    /// An example without anything optional.
    #[must_use]
    pub fn bare_sample() -> Self {
        Self {
            inviter_name: None,
            message: None,
            ..Self::sample()
        }
    }
}

/// Reminds somebody of an invite that they have not answered.
#[derive(Debug, Clone)]
pub struct Reminder {
    /// What the app calls itself.
    pub app_name: OneLine,
    /// The organization to join, or that the project belongs to.
    pub organization_name: Name,
    /// The project to join; none if the invite is for the organization.
    pub project_name: Option<Name>,
    /// Who invites, if usher knows a name.
    pub inviter_name: Option<Name>,
    /// The role that the invitee will have.
    pub role: OneLine,
    /// Where the invite is accepted.
    pub link: AcceptLink,
    /// The first moment at which the link no longer works.
    pub expires_at: DateTime<Utc>,
    /// The invited address: the one to sign up with.
    pub email: OneLine,
}

impl Reminder {
    fn context(&self, language: &Language) -> Value {
        json!({
            "app_name": self.app_name,
            "organization_name": self.organization_name,
            "project_name": self.project_name,
            "inviter_name": self.inviter_name,
            "role": language.role(self.role.as_str()),
            "link": self.link,
            "expires_at": language.date(self.expires_at),
            "email": self.email,
        })
    }

    fn names(&self) -> Vec<(&'static str, Option<&Name>)> {
        vec![
            ("organization_name", Some(&self.organization_name)),
            ("project_name", self.project_name.as_ref()),
            ("inviter_name", self.inviter_name.as_ref()),
        ]
    }

    /// An example with everything in it.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            app_name: "Example".into(),
            organization_name: "Analytical Engines".into(),
            project_name: Some("Difference Engine No. 2".into()),
            inviter_name: Some("Ada Lovelace".into()),
            role: "editor".into(),
            link: AcceptLink::sample(),
            expires_at: sample_expiry(),
            email: "grace@example.com".into(),
        }
    }

    /// An example without anything optional.
    #[must_use]
    pub fn bare_sample() -> Self {
        Self {
            project_name: None,
            inviter_name: None,
            role: "member".into(),
            ..Self::sample()
        }
    }
}

/// Tells the inviter that an invite was accepted.
#[derive(Debug, Clone)]
pub struct AcceptedNotice {
    /// What the app calls itself.
    pub app_name: OneLine,
    /// The organization that was joined, or that the project belongs to.
    pub organization_name: Name,
    /// The project that was joined; none if the invite was for the organization.
    pub project_name: Option<Name>,
    /// Who joined, if usher knows a name.
    pub invitee_name: Option<Name>,
    /// The address that was invited.
    pub invitee_email: OneLine,
    /// Who reads this.
    pub inviter_name: Option<Name>,
}

impl AcceptedNotice {
    fn context(&self, _language: &Language) -> Value {
        json!({
            "app_name": self.app_name,
            "organization_name": self.organization_name,
            "project_name": self.project_name,
            "invitee_name": self.invitee_name,
            "invitee_email": self.invitee_email,
            "inviter_name": self.inviter_name,
        })
    }

    fn names(&self) -> Vec<(&'static str, Option<&Name>)> {
        vec![
            ("organization_name", Some(&self.organization_name)),
            ("project_name", self.project_name.as_ref()),
            ("invitee_name", self.invitee_name.as_ref()),
            ("inviter_name", self.inviter_name.as_ref()),
        ]
    }

    /// An example with everything in it.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            app_name: "Example".into(),
            organization_name: "Analytical Engines".into(),
            project_name: Some("Difference Engine No. 2".into()),
            invitee_name: Some("Grace Hopper".into()),
            invitee_email: "grace@example.com".into(),
            inviter_name: Some("Ada Lovelace".into()),
        }
    }

    /// An example without anything optional.
    #[must_use]
    pub fn bare_sample() -> Self {
        Self {
            project_name: None,
            invitee_name: None,
            inviter_name: None,
            ..Self::sample()
        }
    }
}

/// The address behind the button. Escaping doesn't make `javascript:` harmless, so only web addresses become one.
#[derive(Clone, PartialEq, Eq)]
pub struct AcceptLink(String);

/// The link of an invite has to be an `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an invite link must be an http or https address")]
pub struct NotAWebLink;

impl AcceptLink {
    /// The link as it stands in the mail.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn sample() -> Self {
        let example = "https://app.example.com/invites/AZNk0tQ9c2SpfU3rJx8mYAAAAAHq7wV3kZ5tN1uXb2yGd0Rf";
        Self(example.to_owned())
    }
}

impl TryFrom<Url> for AcceptLink {
    type Error = NotAWebLink;

    fn try_from(url: Url) -> Result<Self, NotAWebLink> {
        match url.scheme() {
            "http" | "https" => Ok(Self(url.into())),
            _ => Err(NotAWebLink),
        }
    }
}

impl FromStr for AcceptLink {
    type Err = NotAWebLink;

    fn from_str(link: &str) -> Result<Self, NotAWebLink> {
        Url::parse(link).map_err(|_| NotAWebLink)?.try_into()
    }
}

impl Serialize for AcceptLink {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The link holds the token, and a token must not reach a log.
impl fmt::Debug for AcceptLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcceptLink(…)")
    }
}

fn sample_expiry() -> DateTime<Utc> {
    Utc.timestamp_opt(1_795_962_600, 0).single().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_become_a_link() {
        let cases = [
            ("https://app.example.com/i/x", true),
            ("http://localhost:3000/#token=x", true),
            ("HTTPS://app.example.com/", true),
            ("javascript:alert(1)", false),
            ("  JavaScript:alert(1)", false),
            ("data:text/html,<script>", false),
            ("vbscript:x", false),
            ("//app.example.com/i", false),
            ("app.example.com/i", false),
            ("", false),
        ];
        for (link, good) in cases {
            assert_eq!(link.parse::<AcceptLink>().is_ok(), good, "{link}");
        }
    }

    #[test]
    fn a_link_holds_no_character_that_could_end_it() {
        let link: AcceptLink = "https://app.example.com/\"><script>?\r\nBcc: <x>".parse().unwrap();
        assert!(
            !link.as_str().contains(['"', '<', '>', '\r', '\n', ' ']),
            "{}",
            link.as_str()
        );
    }

    #[test]
    fn the_token_stays_out_of_debug_output() {
        let shown = format!("{:?}", OrganizationInvite::sample());
        assert!(!shown.contains("AZNk0tQ9c2"), "{shown}");
    }
}
