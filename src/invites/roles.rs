//! Roles: two role orders, from low to high, and who may give which role.

use std::fmt;
use std::str::FromStr;

use super::TargetKind;

/// Role names, from low to high.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleOrder(Vec<String>);

/// Why a text is not a role order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleOrderError {
    #[error("needs at least one role")]
    Empty,
    /// A name with other characters than `a-z`, `0-9`, `_` and `-`.
    #[error("`{0}` is not a role name; use a-z, 0-9, _ and -")]
    Name(String),
    #[error("`{0}` stands there twice")]
    Twice(String),
}

impl RoleOrder {
    /// The rank of a role, 0 for the lowest; `None` for an unknown name.
    #[must_use]
    pub fn rank(&self, role: &str) -> Option<usize> {
        self.0.iter().position(|name| name == role)
    }

    #[must_use]
    pub fn lowest(&self) -> &str {
        &self.0[0]
    }

    #[must_use]
    pub fn highest(&self) -> &str {
        &self.0[self.0.len() - 1]
    }

    /// The names, from low to high.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `held` ranks at least as high as `wanted`. An unknown name never does.
    #[must_use]
    pub fn at_least(&self, held: &str, wanted: &str) -> bool {
        matches!((self.rank(held), self.rank(wanted)), (Some(held), Some(wanted)) if held >= wanted)
    }
}

impl fmt::Display for RoleOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for RoleOrder {
    type Err = RoleOrderError;

    /// Parses `low,middle,high`. Names have a safe alphabet because they become part of SQL texts.
    fn from_str(text: &str) -> Result<Self, RoleOrderError> {
        let mut names: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let is_name = name.len() <= 64
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
            if !is_name {
                return Err(RoleOrderError::Name(name.to_owned()));
            }
            if names.iter().any(|known| known == name) {
                return Err(RoleOrderError::Twice(name.to_owned()));
            }
            names.push(name.to_owned());
        }
        if names.is_empty() {
            return Err(RoleOrderError::Empty);
        }
        Ok(Self(names))
    }
}

/// Both role orders, and the lowest roles that may invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    pub organization: RoleOrder,
    pub project: RoleOrder,
    organization_invite_role: String,
    project_invite_role: String,
}

impl Default for Roles {
    fn default() -> Self {
        let order = |names: &[&str]| RoleOrder(names.iter().map(|&name| name.to_owned()).collect());
        Self::new(
            order(&["member", "admin", "owner"]),
            order(&["support", "client", "editor", "admin"]),
        )
    }
}

/// A person's roles at one target, from live memberships only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EffectiveRoles {
    pub organization: Option<String>,
    /// Their role in the project, if the target is one.
    pub project: Option<String>,
}

/// The organization role from which on people may invite, and manage the organization's projects, if it is configured.
const ORGANIZATION_ADMIN: &str = "admin";
/// The project role from which on people may invite, if it is configured.
const PROJECT_EDITOR: &str = "editor";

impl Roles {
    /// Organization admins invite to their organization, project editors to their project, and so do all higher roles.
    /// If no role has that name, only the highest one may invite.
    #[must_use]
    pub fn new(organization: RoleOrder, project: RoleOrder) -> Self {
        let or_highest = |order: &RoleOrder, name: &str| match order.rank(name) {
            Some(_) => name.to_owned(),
            None => order.highest().to_owned(),
        };
        Self {
            organization_invite_role: or_highest(&organization, ORGANIZATION_ADMIN),
            project_invite_role: or_highest(&project, PROJECT_EDITOR),
            organization,
            project,
        }
    }

    /// Sets the lowest organization role that may invite to the organization; `None` if there is no such role.
    #[must_use]
    pub fn with_organization_invite_role(self, role: &str) -> Option<Self> {
        self.organization.rank(role)?;
        Some(Self {
            organization_invite_role: role.to_owned(),
            ..self
        })
    }

    /// Sets the lowest project role that may invite to the project; `None` if there is no such role.
    #[must_use]
    pub fn with_project_invite_role(self, role: &str) -> Option<Self> {
        self.project.rank(role)?;
        Some(Self {
            project_invite_role: role.to_owned(),
            ..self
        })
    }

    /// The lowest organization role that may invite to the organization.
    #[must_use]
    pub fn organization_invite_role(&self) -> &str {
        &self.organization_invite_role
    }

    /// The lowest project role that may invite to the project.
    #[must_use]
    pub fn project_invite_role(&self) -> &str {
        &self.project_invite_role
    }

    #[must_use]
    pub fn order(&self, kind: TargetKind) -> &RoleOrder {
        match kind {
            TargetKind::Organization => &self.organization,
            TargetKind::Project => &self.project,
        }
    }

    /// Whether a person with the roles `held` may invite with the role `wanted`: they need a role that may invite, and
    /// may not give a higher role than their own. A person who manages the organization counts as having the project's
    /// highest role. The SQL function `usher_may_invite` has the same rules.
    #[must_use]
    pub fn may_invite(&self, kind: TargetKind, held: &EffectiveRoles, wanted: &str) -> bool {
        let organization_role = held.organization.as_deref();
        let (own, lowest) = match kind {
            TargetKind::Organization => (organization_role, &self.organization_invite_role),
            TargetKind::Project if organization_role.is_some_and(|role| self.manages_organization(role)) => {
                (Some(self.project.highest()), &self.project_invite_role)
            }
            TargetKind::Project => (held.project.as_deref(), &self.project_invite_role),
        };
        let order = self.order(kind);
        own.is_some_and(|own| order.at_least(own, lowest) && order.at_least(own, wanted))
    }

    /// Whether a person with the roles `held` has the role `wanted` already, or a higher one. The SQL function `invite` has the
    /// same rules.
    #[must_use]
    pub fn holds(&self, kind: TargetKind, held: &EffectiveRoles, wanted: &str) -> bool {
        let organization = held.organization.as_deref();
        match kind {
            TargetKind::Organization => organization.is_some_and(|role| self.organization.at_least(role, wanted)),
            TargetKind::Project => {
                let project = held.project.as_deref();
                organization.is_some_and(|role| self.manages_organization(role))
                    || project.is_some_and(|role| self.project.at_least(role, wanted))
            }
        }
    }

    /// Whether an organization role counts as the highest role in the organization's projects: `admin` and above, or,
    /// if no role has that name, the roles that may invite to the organization. The lowest role never does.
    #[must_use]
    pub fn manages_organization(&self, role: &str) -> bool {
        let from = self.organization.rank(ORGANIZATION_ADMIN);
        let from = from.or_else(|| self.organization.rank(&self.organization_invite_role));
        let from = from.unwrap_or(usize::MAX).max(1);
        self.organization.rank(role).is_some_and(|rank| rank >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(organization: Option<&str>, project: Option<&str>) -> EffectiveRoles {
        EffectiveRoles {
            organization: organization.map(str::to_owned),
            project: project.map(str::to_owned),
        }
    }

    #[test]
    fn organization_roles_are_handed_out_from_admin_on_up_to_ones_own() {
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
                    roles.may_invite(TargetKind::Organization, &held(Some(inviter), None), wanted),
                    allowed.contains(&(inviter, wanted)),
                    "{inviter} gives {wanted}"
                );
            }
        }
        assert!(!roles.may_invite(TargetKind::Organization, &held(None, Some("admin")), "member"));
    }

    #[test]
    fn project_roles_are_handed_out_from_editor_on_up_to_ones_own_and_managers_inherit_the_highest() {
        let roles = Roles::default();
        let order = ["support", "client", "editor", "admin"];
        for (i, inviter) in order.iter().enumerate() {
            for (j, wanted) in order.iter().enumerate() {
                let place = held(Some("member"), Some(inviter));
                assert_eq!(
                    roles.may_invite(TargetKind::Project, &place, wanted),
                    i >= 2 && i >= j,
                    "{inviter} gives {wanted}"
                );
            }
        }
        for wanted in order {
            assert!(roles.may_invite(TargetKind::Project, &held(Some("admin"), None), wanted));
            assert!(roles.may_invite(TargetKind::Project, &held(Some("owner"), Some("support")), wanted));
            assert!(!roles.may_invite(TargetKind::Project, &held(Some("member"), None), wanted));
            assert!(!roles.may_invite(TargetKind::Project, &held(None, None), wanted));
        }
        assert!(!roles.may_invite(TargetKind::Project, &held(Some("owner"), None), "unheard_of"));
        assert!(!roles.may_invite(TargetKind::Project, &held(None, Some("unheard_of")), "support"));
    }

    #[test]
    fn who_invites_is_set_and_else_admin_and_editor_or_the_highest_alone() {
        // Organization order, project order, configured inviter roles, then the resulting roles: who invites to the
        // organization, who to the project, who manages.
        type Case<'a> = (
            &'a str,
            &'a str,
            Option<&'a str>,
            Option<&'a str>,
            &'a str,
            &'a str,
            &'a str,
        );
        let cases: &[Case] = &[
            (
                "member,admin,owner",
                "support,client,editor,admin",
                None,
                None,
                "admin,owner",
                "editor,admin",
                "admin,owner",
            ),
            (
                "member,admin,owner",
                "support,editor",
                Some("owner"),
                Some("support"),
                "owner",
                "support,editor",
                "admin,owner",
            ),
            (
                "member,admin,owner",
                "support",
                Some("member"),
                None,
                "member,admin,owner",
                "support",
                "admin,owner",
            ),
            (
                "member,billing,admin,owner",
                "viewer,admin",
                None,
                None,
                "admin,owner",
                "admin",
                "admin,owner",
            ),
            (
                "viewer,manager,boss",
                "reader,writer,chief",
                None,
                None,
                "boss",
                "chief",
                "boss",
            ),
            (
                "viewer,manager,boss",
                "reader,writer,chief",
                Some("manager"),
                Some("writer"),
                "manager,boss",
                "writer,chief",
                "manager,boss",
            ),
            ("guest,host", "viewer", None, None, "host", "viewer", "host"),
            ("member", "viewer", None, None, "member", "viewer", ""),
        ];
        for &(organization, project, organization_role, project_role, asks_in, asks_to_project, manages) in cases {
            let mut roles = Roles::new(organization.parse().unwrap(), project.parse().unwrap());
            if let Some(role) = organization_role {
                roles = roles.with_organization_invite_role(role).unwrap();
            }
            if let Some(role) = project_role {
                roles = roles.with_project_invite_role(role).unwrap();
            }
            let among = |order: &RoleOrder, may: &dyn Fn(&str) -> bool| {
                let names: Vec<&str> = order
                    .names()
                    .iter()
                    .map(String::as_str)
                    .filter(|name| may(name))
                    .collect();
                names.join(",")
            };
            let lowest = roles.organization.lowest();
            let invites = |role: &str| roles.may_invite(TargetKind::Organization, &held(Some(role), None), lowest);
            assert_eq!(
                among(&roles.organization, &invites),
                asks_in,
                "{organization} {organization_role:?}"
            );
            let lowest = roles.project.lowest();
            let invites = |role: &str| roles.may_invite(TargetKind::Project, &held(None, Some(role)), lowest);
            assert_eq!(
                among(&roles.project, &invites),
                asks_to_project,
                "{project} {project_role:?}"
            );
            let is_manager = |role: &str| roles.manages_organization(role);
            assert_eq!(
                among(&roles.organization, &is_manager),
                manages,
                "{organization} {organization_role:?}"
            );
        }
        assert_eq!(Roles::default().with_organization_invite_role("editor"), None);
        assert_eq!(Roles::default().with_project_invite_role("owner"), None);
    }

    #[test]
    fn ladders_are_read_low_to_high_and_refuse_what_could_not_be_a_name() {
        let order: RoleOrder = " guest, host ".parse().unwrap();
        assert_eq!(order.rank("host"), Some(1));
        assert_eq!(order.to_string(), "guest,host");
        assert_eq!("".parse::<RoleOrder>(), Err(RoleOrderError::Empty));
        assert_eq!("a,a".parse::<RoleOrder>(), Err(RoleOrderError::Twice("a".to_owned())));
        assert_eq!(
            "a'; drop".parse::<RoleOrder>(),
            Err(RoleOrderError::Name("a'; drop".to_owned()))
        );
    }
}
