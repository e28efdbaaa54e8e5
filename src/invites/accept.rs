//! Whether an invite may still let its person in. Looked up whenever it counts and never stored: a ban that is lifted, or
//! a role that comes back, makes the invite work again.

use super::TargetKind;
use super::roles::{EffectiveRoles, Roles};
use crate::names::named;

named! {
    /// Why an open invite lets nobody in.
    Obstacle("obstacle") {
        /// Its organization, its project or the project's organization was deleted.
        TargetDeleted = "target_deleted",
        /// Its role is not among the configured ones any more.
        UnknownRole = "unknown_role",
        /// The inviter is banned or locked in Clerk, or deleted.
        InviterBlocked = "inviter_blocked",
        /// The inviter may no longer give the role.
        InviterLostRights = "inviter_lost_rights",
    }
}

impl Obstacle {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TargetDeleted => "what it leads into was deleted",
            Self::UnknownRole => "its role is not among the configured roles any more",
            Self::InviterBlocked => "the inviter is banned, locked or deleted",
            Self::InviterLostRights => "the inviter may no longer give its role",
        }
    }
}

/// What an inviter is and holds in one place, as it stands now.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct InviterFacts {
    /// Whether they may act at all: neither deleted nor banned nor locked. `None` if there is no such person.
    pub inviter_acts: Option<bool>,
    /// Their role in the organization.
    pub inviter_organization_role: Option<String>,
    /// Whether they were in the organization and were removed.
    pub inviter_has_left: bool,
    /// Their role in the project, where the place is one.
    pub inviter_project_role: Option<String>,
}

impl InviterFacts {
    /// What they hold. Whoever was removed from the organization holds nothing in its projects either.
    #[must_use]
    pub fn held(&self) -> EffectiveRoles {
        EffectiveRoles {
            organization: self.inviter_organization_role.clone(),
            project: self.inviter_project_role.clone().filter(|_| !self.inviter_has_left),
        }
    }

    /// Why they can't invite as `wanted`, if it is so. That they are blocked is told of those who otherwise could.
    #[must_use]
    pub fn obstacle(&self, kind: TargetKind, wanted: &str, roles: &Roles) -> Option<Obstacle> {
        if !roles.may_invite(kind, &self.held(), wanted) {
            return Some(Obstacle::InviterLostRights);
        }
        (self.inviter_acts != Some(true)).then_some(Obstacle::InviterBlocked)
    }
}

/// What decides whether an invite may let its person in.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AcceptFacts {
    /// Organization or project.
    #[sqlx(try_from = "String")]
    pub target_kind: TargetKind,
    /// Whether what it leads into is there.
    pub target_exists: bool,
    /// The role that it gives.
    pub wanted_role: String,
    /// Whether somebody invites, or the app in its own name.
    pub has_inviter: bool,
    /// Who invites.
    #[sqlx(flatten)]
    pub inviter: InviterFacts,
}

impl AcceptFacts {
    /// Why it lets nobody in, if it is so.
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
