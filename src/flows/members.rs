//! Memberships that the app sets and ends, and people who leave.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::invites::members::{LastOwner, Ledger, MemberRequest, Membership};
use crate::invites::roles::Roles;
use crate::invites::{PersonRef, Target};
use crate::store::{self, AppRefusal, Grant, MemberPerson, StoreError, TargetInfo, Tx};

/// Why a membership is not as requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberRefusal {
    /// The organization or project does not exist, or the caller may not use it.
    UnknownTarget,
    /// The person is banned, locked or deleted in Clerk.
    PersonBlocked,
    /// It would take the organization's highest role from its last holder.
    LastOwner,
    /// The app's own tables don't take it.
    App(AppRefusal),
}

/// Sets memberships, in order; the answers are in the order of the requests. For a caller that is limited to some
/// `organizations`, everything else does not exist. An equal request changes nothing. What an app's own tables refuse, does not
/// affect the others.
pub async fn set_members(
    tx: &mut Tx,
    requests: &[MemberRequest],
    roles: &Roles,
    organizations: Option<&HashSet<Uuid>>,
) -> Result<Vec<Result<Membership, MemberRefusal>>, StoreError> {
    let refusal = match attempt(tx, requests, roles, organizations).await? {
        Ok(answers) => return Ok(answers),
        Err(refusal) => refusal,
    };
    if requests.len() == 1 {
        return Ok(vec![Err(MemberRefusal::App(refusal))]);
    }
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        match attempt(tx, std::slice::from_ref(request), roles, organizations).await? {
            Ok(answer) => answers.extend(answer),
            Err(refusal) => answers.push(Err(MemberRefusal::App(refusal))),
        }
    }
    Ok(answers)
}

/// Sets all of them, or none if an app's own tables refuse one.
async fn attempt(
    tx: &mut Tx,
    requests: &[MemberRequest],
    roles: &Roles,
    organizations: Option<&HashSet<Uuid>>,
) -> Result<Result<Vec<Result<Membership, MemberRefusal>>, AppRefusal>, StoreError> {
    let savepoint = tx.savepoint().await?;
    let answers = set_all(tx, requests, roles, organizations).await;
    tx.keep(savepoint, answers).await
}

async fn set_all(
    tx: &mut Tx,
    requests: &[MemberRequest],
    roles: &Roles,
    organizations: Option<&HashSet<Uuid>>,
) -> Result<Vec<Result<Membership, MemberRefusal>>, StoreError> {
    // In the order of locks: people, targets, invites, memberships.
    let targets = load_targets(tx, requests.iter().map(|request| request.target), organizations).await?;
    let wanted: HashMap<&str, (Uuid, &str)> = requests
        .iter()
        .filter_map(|request| {
            let organization_id = targets.get(&request.target)?.organization_id;
            let role = match request.target {
                Target::Organization(_) => &request.role,
                Target::Project(_) => roles.organization.lowest(),
            };
            Some((request.clerk_user_id.as_str(), (organization_id, role)))
        })
        .collect();
    let people = tx.people_to_be_members(&wanted).await?;
    let organization_ids: HashSet<Uuid> = targets.values().map(|info| info.organization_id).collect();
    let known: Vec<Uuid> = people
        .values()
        .filter_map(|person| match person {
            MemberPerson::Known(admin_id) => Some(*admin_id),
            MemberPerson::Blocked => None,
        })
        .collect();
    let mut ledger = lock_ledger(tx, &organization_ids.into_iter().collect::<Vec<_>>(), &known, roles).await?;
    let mut members = Vec::new();
    let answers = requests.iter().map(|request| {
        let info = targets.get(&request.target).ok_or(MemberRefusal::UnknownTarget)?;
        let Some(&MemberPerson::Known(admin_id)) = people.get(&request.clerk_user_id) else {
            return Err(MemberRefusal::PersonBlocked);
        };
        let set = ledger
            .set(request.target, info.organization_id, admin_id, &request.role, roles)
            .map_err(|LastOwner| MemberRefusal::LastOwner)?;
        if set != Membership::Unchanged {
            members.push((request.target, admin_id));
        }
        Ok(set)
    });
    let answers: Vec<_> = answers.collect();
    let open = tx.open_invites_of(&members).await?;
    tx.revoke_invites(&open).await?;
    let grants = |changed: BTreeMap<(Uuid, Uuid), String>| -> Vec<Grant> {
        let grant = |((target_id, admin_id), role)| Grant {
            target_id,
            admin_id,
            role,
        };
        changed.into_iter().map(grant).collect()
    };
    tx.set_memberships(&grants(ledger.changed_organizations), &grants(ledger.changed_projects))
        .await?;
    Ok(answers)
}

/// The organizations and projects that exist and that the caller may use. Projects are locked, so that they are not
/// moved in the meantime.
pub(super) async fn load_targets(
    tx: &mut Tx,
    wanted: impl Iterator<Item = Target>,
    may_use: Option<&HashSet<Uuid>>,
) -> Result<HashMap<Target, TargetInfo>, StoreError> {
    let (mut organizations, mut projects) = (Vec::new(), Vec::new());
    for target in wanted {
        match target {
            Target::Organization(id) => organizations.push(id),
            Target::Project(id) => projects.push(id),
        }
    }
    let mut targets = HashMap::new();
    if !organizations.is_empty() {
        let found = tx.organizations(&organizations).await?;
        targets.extend(found.into_iter().map(|info| (Target::Organization(info.id), info)));
    }
    if !projects.is_empty() {
        tx.lock_projects(&projects).await?;
        let found = tx.projects(&projects).await?;
        targets.extend(found.into_iter().map(|info| (Target::Project(info.id), info)));
    }
    if let Some(may_use) = may_use {
        targets.retain(|_, info| may_use.contains(&info.organization_id));
    }
    Ok(targets)
}

/// The memberships of people, and the owners of organizations, which are locked.
async fn lock_ledger(
    tx: &mut Tx,
    organizations: &[Uuid],
    people: &[Uuid],
    roles: &Roles,
) -> Result<Ledger, StoreError> {
    tx.lock_members_of(organizations).await?;
    let by_pair = |held: Vec<store::Membership>| {
        let pair = |held: store::Membership| ((held.target_id, held.admin_id), held.role);
        held.into_iter().map(pair).collect()
    };
    Ok(Ledger {
        organizations: by_pair(tx.organization_memberships(people).await?),
        projects: by_pair(tx.project_memberships(people).await?),
        owners: tx.holders(organizations, roles.organization.highest()).await?,
        ..Ledger::default()
    })
}

/// A membership that is to end.
#[derive(Debug, Clone, Copy)]
pub struct Removal<'a> {
    pub target: Target,
    pub clerk_user_id: &'a str,
    /// The organizations that the caller is limited to, if they are.
    pub organizations: Option<&'a HashSet<Uuid>>,
    /// Lets the last owner go, too.
    pub force: bool,
    pub roles: &'a Roles,
}

/// Ends a membership; ending one in an organization ends those in its projects. Whoever is not a member stays none. `None`
/// if the target does not exist, or the caller may not use it.
pub async fn remove_member(tx: &mut Tx, removal: Removal<'_>) -> Result<Option<Result<(), LastOwner>>, StoreError> {
    let Removal {
        target,
        clerk_user_id,
        organizations,
        force,
        roles,
    } = removal;
    if load_targets(tx, std::iter::once(target), organizations)
        .await?
        .is_empty()
    {
        return Ok(None);
    }
    let person = PersonRef::Clerk(clerk_user_id.to_owned());
    let Some(&admin_id) = tx.live_people(std::slice::from_ref(&person)).await?.get(&person) else {
        return Ok(Some(Ok(())));
    };
    if let Target::Organization(id) = target {
        let ledger = lock_ledger(tx, &[id], &[admin_id], roles).await?;
        if let Err(refused) = ledger.keeps_an_owner(id, admin_id)
            && !force
        {
            return Ok(Some(Err(refused)));
        }
        for project_id in tx.projects_within(id, admin_id).await? {
            tx.end_membership(Target::Project(project_id), admin_id).await?;
        }
    }
    tx.end_membership(target, admin_id).await?;
    Ok(Some(Ok(())))
}
