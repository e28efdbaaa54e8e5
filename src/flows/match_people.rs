//! Runs the match: finds the candidates of people, decides, then accepts or flags their invites.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::accept::{accept_candidates, refuse};
use crate::invites::Invite;
use crate::invites::matching::{AutoAccept, Decision, MatchTrigger, Person, decide};
use crate::invites::roles::{EffectiveRoles, Roles};
use crate::store::{Membership, StoreError, Tx};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchRequest {
    pub person: Person,
    pub trigger: MatchTrigger,
}

pub struct Matched {
    /// The people whose invites were accepted.
    pub accepted: HashSet<Uuid>,
    /// People with an invite that was not accepted because its target is locked.
    pub locked: HashSet<Uuid>,
}

/// The invites of these, each with a person and the organization, whose role or a higher one the person has already. With usher's
/// own tables no invite stays open when a person is made a member; beside an app's, the app may write memberships.
pub async fn held_already(
    tx: &mut Tx,
    wanted: &[(Uuid, Uuid, &Invite)],
    roles: &Roles,
) -> Result<HashSet<Uuid>, StoreError> {
    if wanted.is_empty() || !tx.is_shared() {
        return Ok(HashSet::new());
    }
    let people: Vec<Uuid> = wanted.iter().map(|(admin_id, _, _)| *admin_id).collect();
    let by_pair = |memberships: Vec<Membership>| -> HashMap<(Uuid, Uuid), String> {
        let pair = |held: Membership| ((held.target_id, held.admin_id), held.role);
        memberships.into_iter().map(pair).collect()
    };
    let organizations = by_pair(tx.organization_memberships(&people).await?);
    let projects = by_pair(tx.project_memberships(&people).await?);
    let is_held = |(admin_id, organization_id, invite): &&(Uuid, Uuid, &Invite)| {
        let held = EffectiveRoles {
            organization: organizations.get(&(*organization_id, *admin_id)).cloned(),
            project: invite.project_id.and_then(|id| projects.get(&(id, *admin_id)).cloned()),
        };
        roles.holds(invite.kind, &held, &invite.role)
    };
    Ok(wanted.iter().filter(is_held).map(|(_, _, invite)| invite.id).collect())
}

/// Runs the match for these people, each once.
pub async fn match_people(
    tx: &mut Tx,
    requests: &[MatchRequest],
    policy: AutoAccept,
    roles: &Roles,
    skip_locked: bool,
) -> Result<Matched, StoreError> {
    let requests: HashMap<Uuid, MatchRequest> = requests
        .iter()
        .filter(|request| !request.person.blocked)
        .map(|request| (request.person.id, *request))
        .collect();
    let people: Vec<Person> = requests.values().map(|request| request.person).collect();
    let waiting = tx.invite_candidates(&people).await?;
    let now = tx.now();
    let mut accepted = Vec::new();
    let mut flagged = Vec::new();
    for waiting in &waiting {
        let Some(request) = requests.get(&waiting.person.id) else {
            continue;
        };
        match decide(&request.person, &waiting.invite, policy, request.trigger, now) {
            Decision::Accept => accepted.push(waiting),
            Decision::Flag => flagged.push(waiting),
            Decision::Leave => {}
        }
    }
    // The banner shows no invite that can't be accepted, or that gives nothing.
    let (mut flagged, _) = refuse(tx, &flagged, roles).await?;
    let wanted: Vec<_> = flagged
        .iter()
        .map(|waiting| (waiting.person.admin_id, waiting.target_organization_id, &waiting.invite))
        .collect();
    let held = held_already(tx, &wanted, roles).await?;
    flagged.retain(|waiting| !held.contains(&waiting.invite.id));
    tx.flag_invites(&flagged).await?;
    let mut locked = HashSet::new();
    if skip_locked {
        let targets = tx.locked_targets(&accepted).await?;
        accepted.retain(|candidate| {
            let is_locked = candidate.target_ids().any(|id| targets.contains(&id));
            if is_locked {
                locked.insert(candidate.person.id);
            }
            !is_locked
        });
    }
    let accepted = accept_candidates(tx, &accepted, roles).await?.people;
    Ok(Matched { accepted, locked })
}
