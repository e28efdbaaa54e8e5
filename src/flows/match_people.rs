//! The match, carried out: find what waits for people, decide, let in or flag.

use std::collections::HashMap;

use uuid::Uuid;

use super::admit::{admit, refuse};
use crate::invites::Invite;
use crate::invites::matching::{AutoAccept, Decision, Occasion, Person, decide};
use crate::invites::roles::Roles;
use crate::store::{StoreError, Tx};

/// A person for whom the match runs, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Who.
    pub person: Person,
    /// Why.
    pub occasion: Occasion,
}

/// Runs the match for these people, each once; returns the invites that let somebody in.
///
/// # Errors
/// [`StoreError`].
pub async fn match_people(
    tx: &mut Tx,
    visits: &[Visit],
    policy: AutoAccept,
    roles: &Roles,
) -> Result<Vec<Invite>, StoreError> {
    let visits: HashMap<Uuid, Visit> = visits
        .iter()
        .filter(|visit| !visit.person.blocked)
        .map(|visit| (visit.person.admin_id, *visit))
        .collect();
    let people: Vec<Uuid> = visits.keys().copied().collect();
    let waiting = tx.waiting_for(&people).await?;
    let now = tx.now();
    let mut admitted = Vec::new();
    let mut flagged = Vec::new();
    for waiting in &waiting {
        let Some(visit) = visits.get(&waiting.admin_id) else {
            continue;
        };
        match decide(&visit.person, &waiting.invite, policy, visit.occasion, now) {
            Decision::Accept => admitted.push(waiting),
            Decision::Flag => flagged.push(waiting),
            Decision::Leave => {}
        }
    }
    // Nobody is asked what they could not accept.
    let (flagged, _) = refuse(tx, &flagged, roles).await?;
    tx.flag_invites(&flagged).await?;
    Ok(admit(tx, &admitted, roles).await?.invites)
}
