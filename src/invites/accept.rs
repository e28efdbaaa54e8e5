//! Whether an invite may still be accepted. Computed each time and never stored: when a ban is lifted or a role comes
//! back, the invite works again.

use super::TargetKind;
use super::roles::{EffectiveRoles, Roles};
use crate::names::named;

named! {
    /// Why an open invite can't be accepted.
    Obstacle("obstacle") {
        /// Its organization, its project or the project's organization was deleted.
        TargetDeleted = "target_deleted",
        /// Its role is not configured any more.
        UnknownRole = "unknown_role",
        /// The inviter is banned or locked in Clerk, or deleted.
        InviterBlocked = "inviter_blocked",
        /// The inviter may no longer give the role.
        InviterLostRights = "inviter_lost_rights",
        /// The app's own tables did not take the membership when it was last tried.
        AppRefuses = "app_refuses",
    }
}

impl Obstacle {
    /// The text for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TargetDeleted => "what it leads into was deleted",
            Self::UnknownRole => "its role is not among the configured roles any more",
            Self::InviterBlocked => "the inviter is banned, locked or deleted",
            Self::InviterLostRights => "the inviter may no longer give its role",
            Self::AppRefuses => {
                "the app's own tables refuse the membership; usher's log names the column or the constraint"
            }
        }
    }
}

/// An inviter's state and roles at one target, at the present time.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct InviterFacts {
    /// Whether they are neither deleted nor banned nor locked. `None` if the person does not exist.
    pub inviter_acts: Option<bool>,
    pub inviter_organization_role: Option<String>,
    /// Whether they were removed from the organization.
    pub inviter_has_left: bool,
    /// Their role in the project, if the target is one.
    pub inviter_project_role: Option<String>,
}

impl InviterFacts {
    /// Their effective roles. A person who was removed from the organization has no roles in its projects either.
    #[must_use]
    pub fn held(&self) -> EffectiveRoles {
        EffectiveRoles {
            organization: self.inviter_organization_role.clone(),
            project: self.inviter_project_role.clone().filter(|_| !self.inviter_has_left),
        }
    }

    /// Why they may not invite with the role `wanted`, if so. "Blocked" is reported only if they could invite
    /// otherwise.
    #[must_use]
    pub fn obstacle(&self, kind: TargetKind, wanted: &str, roles: &Roles) -> Option<Obstacle> {
        if !roles.may_invite(kind, &self.held(), wanted) {
            return Some(Obstacle::InviterLostRights);
        }
        (self.inviter_acts != Some(true)).then_some(Obstacle::InviterBlocked)
    }
}

/// The data that decides whether an invite may be accepted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AcceptFacts {
    #[sqlx(try_from = "String")]
    pub target_kind: TargetKind,
    pub target_exists: bool,
    pub wanted_role: String,
    /// `false` if the app invited in its own name.
    pub has_inviter: bool,
    #[sqlx(flatten)]
    pub inviter: InviterFacts,
}

impl AcceptFacts {
    /// Why it can't be accepted, if so.
    #[must_use]
    pub fn obstacle(&self, roles: &Roles) -> Option<Obstacle> {
        if !self.target_exists {
            return Some(Obstacle::TargetDeleted);
        }
        if roles.order(self.target_kind).rank(&self.wanted_role).is_none() {
            return Some(Obstacle::UnknownRole);
        }
        if !self.has_inviter {
            return None;
        }
        self.inviter.obstacle(self.target_kind, &self.wanted_role, roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_lets_in_while_target_role_and_inviter_are_what_they_were() {
        let good = AcceptFacts {
            target_kind: TargetKind::Project,
            target_exists: true,
            wanted_role: "client".to_owned(),
            has_inviter: true,
            inviter: InviterFacts {
                inviter_acts: Some(true),
                inviter_organization_role: None,
                inviter_has_left: false,
                inviter_project_role: Some("editor".to_owned()),
            },
        };
        type Change = fn(&mut AcceptFacts);
        let cases: &[(Change, Option<Obstacle>)] = &[
            (|_| {}, None),
            (|facts| facts.target_exists = false, Some(Obstacle::TargetDeleted)),
            (
                |facts| facts.wanted_role = "emperor".to_owned(),
                Some(Obstacle::UnknownRole),
            ),
            (
                |facts| facts.wanted_role = "owner".to_owned(),
                Some(Obstacle::UnknownRole),
            ),
            (
                |facts| facts.wanted_role = "admin".to_owned(),
                Some(Obstacle::InviterLostRights),
            ),
            (
                |facts| facts.inviter.inviter_acts = Some(false),
                Some(Obstacle::InviterBlocked),
            ),
            (
                |facts| facts.inviter.inviter_acts = None,
                Some(Obstacle::InviterBlocked),
            ),
            (
                |facts| facts.inviter.inviter_has_left = true,
                Some(Obstacle::InviterLostRights),
            ),
            (
                |facts| facts.inviter.inviter_project_role = Some("client".to_owned()),
                Some(Obstacle::InviterLostRights),
            ),
            (
                |facts| facts.inviter = InviterFacts::default(),
                Some(Obstacle::InviterLostRights),
            ),
            (
                |facts| {
                    facts.has_inviter = false;
                    facts.inviter = InviterFacts::default();
                },
                None,
            ),
            (
                |facts| {
                    facts.has_inviter = false;
                    facts.wanted_role = "emperor".to_owned();
                },
                Some(Obstacle::UnknownRole),
            ),
        ];
        for (n, (change, expected)) in cases.iter().enumerate() {
            let mut facts = good.clone();
            change(&mut facts);
            assert_eq!(facts.obstacle(&Roles::default()), *expected, "case {n}: {facts:?}");
        }
    }
}
