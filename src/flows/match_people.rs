//! Runs the match: finds the candidates of people, decides, then accepts or flags their invites.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::accept::{accept_candidates, refuse};
use crate::invites::matching::{AutoAccept, Decision, MatchTrigger, Person, decide};
use crate::invites::roles::Roles;
use crate::store::{StoreError, Tx};

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
    // The banner shows no invite that can't be accepted.
    let (flagged, _) = refuse(tx, &flagged, roles).await?;
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
