//! Who is to be a member of what, with which role; and the rule that an organization keeps its last owner.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use super::Target;
use super::request::{is_clerk_user_id, role, target_orders};
use super::roles::{RoleOrder, Roles};
use crate::app_id::AppId;
use crate::fields::{FieldError, Fields, body, text};

body! {
    /// A role for somebody.
    pub struct PutMember(orders: &[&RoleOrder]) {
        /// One of `ORGANIZATION_ROLES`, or of `PROJECT_ROLES` in a project.
        #[schema(
            min_length = 1,
            max_length = 64,
            example = "member",
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        )]
        role: String = required(role(orders)),
    }
}

body! {
    /// A role for somebody in an organization or a project.
    pub struct BatchMember(orders: &[&RoleOrder]) {
        /// The organization. Give either this or `project_id`.
        organization_id: Option<AppId> = optional(AppId::read),
        /// The project.
        project_id: Option<AppId> = optional(AppId::read),
        /// Clerk's id of the person.
        #[schema(pattern = "^user_[A-Za-z0-9_]{1,59}$")]
        clerk_user_id: String = required(clerk_user_id),
        /// One of `ORGANIZATION_ROLES`, or of `PROJECT_ROLES` in a project.
        #[schema(
            min_length = 1,
            max_length = 64,
            example = "member",
            pattern = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u001f\u007f-\u009f\u2028\u2029\s][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
        )]
        role: String = required(role(orders)),
    }
}

/// A membership that somebody shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRequest {
    pub target: Target,
    pub clerk_user_id: String,
    pub role: String,
}

impl MemberRequest {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn parse(value: Value, roles: &Roles) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(value)?;
        let orders = target_orders(&mut fields, roles);
        let request = BatchMember::read(&mut fields, &orders).and_then(|body| {
            Some(Self {
                target: Target::of(body.organization_id.as_ref(), body.project_id.as_ref())?,
                clerk_user_id: body.clerk_user_id,
                role: body.role,
            })
        });
        fields.finish(request)
    }
}

fn clerk_user_id(value: Value) -> Result<String, String> {
    text(value)
        .ok()
        .filter(|id| is_clerk_user_id(id))
        .ok_or_else(|| "must be a Clerk user id".to_owned())
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    Added,
    Changed,
    /// It was so before.
    Unchanged,
}

/// They are the last holder of the organization's highest role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastOwner;

/// The memberships that matter to a set of changes, and those that change.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Roles in organizations and projects, by target and person.
    pub organizations: HashMap<(Uuid, Uuid), String>,
    pub projects: HashMap<(Uuid, Uuid), String>,
    /// Who has the highest role in each organization.
    pub owners: HashMap<Uuid, HashSet<Uuid>>,
    pub changed_organizations: BTreeMap<(Uuid, Uuid), String>,
    pub changed_projects: BTreeMap<(Uuid, Uuid), String>,
}

impl Ledger {
    /// Gives a person a role. Whoever is in a project is in its organization, too, at least with the lowest role.
    ///
    /// # Errors
    ///
    /// [`LastOwner`], if this would take the highest role from its last holder.
    pub fn set(
        &mut self,
        target: Target,
        organization_id: Uuid,
        admin_id: Uuid,
        wanted: &str,
        roles: &Roles,
    ) -> Result<Membership, LastOwner> {
        match target {
            Target::Organization(id) => {
                if wanted != roles.organization.highest() {
                    self.keeps_an_owner(id, admin_id)?;
                }
                if let Some(owners) = self.owners.get_mut(&id) {
                    owners.remove(&admin_id);
                }
                if wanted == roles.organization.highest() {
                    self.owners.entry(id).or_default().insert(admin_id);
                }
                Ok(write(
                    &mut self.organizations,
                    &mut self.changed_organizations,
                    (id, admin_id),
                    wanted,
                ))
            }
            Target::Project(id) => {
                if !self.organizations.contains_key(&(organization_id, admin_id)) {
                    let lowest = roles.organization.lowest();
                    self.set(
                        Target::Organization(organization_id),
                        organization_id,
                        admin_id,
                        lowest,
                        roles,
                    )?;
                }
                Ok(write(
                    &mut self.projects,
                    &mut self.changed_projects,
                    (id, admin_id),
                    wanted,
                ))
            }
        }
    }

    /// Whether an organization has an owner without this person, if it has one now.
    ///
    /// # Errors
    ///
    /// [`LastOwner`]
    pub fn keeps_an_owner(&self, organization_id: Uuid, admin_id: Uuid) -> Result<(), LastOwner> {
        match self.owners.get(&organization_id) {
            Some(owners) if owners.len() == 1 && owners.contains(&admin_id) => Err(LastOwner),
            _ => Ok(()),
        }
    }
}

fn write(
    held: &mut HashMap<(Uuid, Uuid), String>,
    changed: &mut BTreeMap<(Uuid, Uuid), String>,
    key: (Uuid, Uuid),
    wanted: &str,
) -> Membership {
    match held.insert(key, wanted.to_owned()) {
        Some(before) if before == wanted => Membership::Unchanged,
        before => {
            changed.insert(key, wanted.to_owned());
            before.map_or(Membership::Added, |_| Membership::Changed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_keeps_the_last_holder_of_its_highest_role() {
        let [acme, apollo, ada, bob] = [1, 2, 3, 4].map(Uuid::from_u128);
        let roles = Roles::default();
        let organization = Target::Organization(acme);
        let mut ledger = Ledger::default();
        let mut set = |target, admin, role: &str| ledger.set(target, acme, admin, role, &roles);
        assert_eq!(
            set(organization, bob, "member"),
            Ok(Membership::Added),
            "where there was none, none is kept"
        );
        assert_eq!(set(organization, bob, "admin"), Ok(Membership::Changed));
        assert_eq!(set(organization, ada, "owner"), Ok(Membership::Added));
        assert_eq!(set(organization, ada, "owner"), Ok(Membership::Unchanged));
        assert_eq!(set(organization, ada, "admin"), Err(LastOwner));
        assert_eq!(set(organization, bob, "owner"), Ok(Membership::Changed));
        assert_eq!(
            set(organization, ada, "member"),
            Ok(Membership::Changed),
            "bob has it now"
        );
        assert_eq!(set(organization, bob, "member"), Err(LastOwner));
        assert_eq!(set(Target::Project(apollo), bob, "client"), Ok(Membership::Added));
        assert_eq!(
            ledger.organizations[&(acme, bob)],
            "owner",
            "a project's role takes none away"
        );
        assert_eq!(ledger.keeps_an_owner(acme, bob), Err(LastOwner));
        assert_eq!(ledger.keeps_an_owner(acme, ada), Ok(()));
        assert_eq!(ledger.changed_projects.len(), 1);
    }

    #[test]
    fn whoever_is_in_a_project_is_in_its_organization() {
        let [acme, apollo, ada] = [1, 2, 3].map(Uuid::from_u128);
        let mut ledger = Ledger::default();
        let set = ledger.set(Target::Project(apollo), acme, ada, "editor", &Roles::default());
        assert_eq!(set, Ok(Membership::Added));
        assert_eq!(ledger.changed_organizations[&(acme, ada)], "member");
    }
}
