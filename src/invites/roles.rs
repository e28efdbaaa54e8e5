//! Roles: two ladders, low to high, and who may hand out which rung.

use std::fmt;
use std::str::FromStr;

/// An ordered list of role names, low to high.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<String>);

/// Why a text is no ladder of roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// No role at all.
    #[error("needs at least one role")]
    Empty,
    /// A name with other characters than `a-z`, `0-9`, `_` and `-`.
    #[error("`{0}` is not a role name; use a-z, 0-9, _ and -")]
    Name(String),
    /// The same name twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
}

impl Ladder {
    /// The position of a role, 0 for the lowest; `None` for a name that is not on the ladder.
    #[must_use]
    pub fn rank(&self, role: &str) -> Option<usize> {
        self.0.iter().position(|name| name == role)
    }

    /// The lowest role.
    #[must_use]
    pub fn lowest(&self) -> &str {
        &self.0[0]
    }

    /// The names, low to high.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `held` is `wanted` or above it. A name that is not on the ladder reaches nothing.
    #[must_use]
    pub fn reaches(&self, held: &str, wanted: &str) -> bool {
        matches!((self.rank(held), self.rank(wanted)), (Some(held), Some(wanted)) if held >= wanted)
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Ladder {
    type Err = LadderError;

    /// Reads `low,middle,high`. Names are kept to a safe alphabet because they become part of SQL texts.
    fn from_str(text: &str) -> Result<Self, LadderError> {
        let mut names: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let is_name = name.len() <= 64
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
            if !is_name {
                return Err(LadderError::Name(name.to_owned()));
            }
            if names.iter().any(|known| known == name) {
                return Err(LadderError::Twice(name.to_owned()));
            }
            names.push(name.to_owned());
        }
        if names.is_empty() {
            return Err(LadderError::Empty);
        }
        Ok(Self(names))
    }
}

/// Both ladders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Roles in an organization.
    pub organization: Ladder,
    /// Roles in a project.
    pub project: Ladder,
}

impl Default for Roles {
    fn default() -> Self {
        let ladder = |names: &[&str]| Ladder(names.iter().map(|&name| name.to_owned()).collect());
        Self {
            organization: ladder(&["member", "admin", "owner"]),
            project: ladder(&["support", "client", "editor", "admin"]),
        }
    }
}

/// What a person holds in one place: live memberships only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Their role in the organization.
    pub organization: Option<String>,
    /// Their role in the project, where the place is a project.
    pub project: Option<String>,
}

impl Roles {
    /// Whether somebody holding `held` may hand out the organization role `wanted`: their own or a lower one.
    /// Plain members, the lowest rung, invite nobody into the organization.
    #[must_use]
    pub fn may_grant_in_organization(&self, held: &Held, wanted: &str) -> bool {
        held.organization
            .as_deref()
            .is_some_and(|role| self.manages_organization(role) && self.organization.reaches(role, wanted))
    }

    /// Whether somebody holding `held` may hand out the project role `wanted`. Whoever manages the organization
    /// counts as the project's highest role.
    #[must_use]
    pub fn may_grant_in_project(&self, held: &Held, wanted: &str) -> bool {
        let Some(wanted_rank) = self.project.rank(wanted) else {
            return false;
        };
        if held
            .organization
            .as_deref()
            .is_some_and(|role| self.manages_organization(role))
        {
            return true;
        }
        held.project
            .as_deref()
            .and_then(|role| self.project.rank(role))
            .is_some_and(|held_rank| held_rank >= wanted_rank)
    }

    /// Every organization role but the lowest manages the organization: `admin` and `owner` as configured by default.
    #[must_use]
    pub fn manages_organization(&self, role: &str) -> bool {
        self.organization.rank(role).is_some_and(|rank| rank > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(organization: Option<&str>, project: Option<&str>) -> Held {
        Held {
            organization: organization.map(str::to_owned),
            project: project.map(str::to_owned),
        }
    }

    #[test]
    fn an_organization_role_is_handed_out_up_to_ones_own() {
        let roles = Roles::default();
        let allowed = [
            ("admin", "member"),
            ("admin", "admin"),
            ("owner", "member"),
            ("owner", "admin"),
            ("owner", "owner"),
        ];
        for inviter in ["member", "admin", "owner", "unheard_of"] {
            for wanted in ["member", "admin", "owner", "unheard_of"] {
                assert_eq!(
                    roles.may_grant_in_organization(&held(Some(inviter), None), wanted),
                    allowed.contains(&(inviter, wanted)),
                    "{inviter} hands out {wanted}"
                );
            }
        }
        assert!(!roles.may_grant_in_organization(&held(None, Some("admin")), "member"));
    }

    #[test]
    fn a_project_role_is_handed_out_up_to_ones_own_and_managers_inherit_the_highest() {
        let roles = Roles::default();
        let ladder = ["support", "client", "editor", "admin"];
        for (i, inviter) in ladder.iter().enumerate() {
            for (j, wanted) in ladder.iter().enumerate() {
                let place = held(Some("member"), Some(inviter));
                assert_eq!(
                    roles.may_grant_in_project(&place, wanted),
                    i >= j,
                    "{inviter} hands out {wanted}"
                );
            }
        }
        for wanted in ladder {
            assert!(roles.may_grant_in_project(&held(Some("admin"), None), wanted));
            assert!(roles.may_grant_in_project(&held(Some("owner"), Some("support")), wanted));
            assert!(!roles.may_grant_in_project(&held(Some("member"), None), wanted));
            assert!(!roles.may_grant_in_project(&held(None, None), wanted));
        }
        assert!(!roles.may_grant_in_project(&held(Some("owner"), None), "unheard_of"));
    }

    #[test]
    fn ladders_are_read_low_to_high_and_refuse_what_could_not_be_a_name() {
        let ladder: Ladder = " guest, host ".parse().unwrap();
        assert_eq!(ladder.rank("host"), Some(1));
        assert_eq!(ladder.to_string(), "guest,host");
        assert_eq!("".parse::<Ladder>(), Err(LadderError::Empty));
        assert_eq!("a,a".parse::<Ladder>(), Err(LadderError::Twice("a".to_owned())));
        assert_eq!(
            "a'; drop".parse::<Ladder>(),
            Err(LadderError::Name("a'; drop".to_owned()))
        );
    }
}
