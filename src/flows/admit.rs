//! The one way in: an accepted invite, its memberships and the notice to its inviter, in one transaction.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::invites::roles::{Held, Ladder, Roles};
use crate::invites::{Invite, Kind};
use crate::store::{DeliveryKind, Grant, Membership, NewDelivery, StoreError, Tx, Waiting};

/// What came of an admission.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// The invites that let their person in.
    pub invites: Vec<Invite>,
    /// Those whose inviter may no longer hand out the role; nothing was changed for them.
    pub refused: Vec<Uuid>,
}

/// Lets each person in by the invite that waits for them. Invites that are no longer open give nothing. A hundred at
/// once make one membership and one notice, because one guarded update decides who was first. The inviter's right to
/// hand out the role is checked again here, where it counts.
///
/// # Errors
/// [`StoreError`].
pub async fn admit(tx: &mut Tx, waiting: &[&Waiting], roles: &Roles) -> Result<Admitted, StoreError> {
    // A project may be moved while its invite is accepted.
    let waiting = tx.hold_homes(waiting).await?;
    let waiting: Vec<&Waiting> = waiting.iter().collect();
    let refused = without_right(tx, &waiting, roles).await?;
    let has_right = |waiting: &&Waiting| !refused.contains(&waiting.invite.id);
    let waiting: Vec<&Waiting> = waiting.iter().copied().filter(has_right).collect();
    let accepted = tx.accept_invites(&waiting).await?;
    let homes: HashMap<Uuid, Uuid> = waiting
        .iter()
        .map(|waiting| (waiting.invite.id, waiting.home_id))
        .collect();

    let mut organizations = Grants::new(&roles.organization);
    let mut projects = Grants::new(&roles.project);
    for invite in &accepted {
        let (Some(admin_id), Some(&home_id)) = (invite.accepted_by, homes.get(&invite.id)) else {
            continue;
        };
        match (invite.kind, invite.project_id) {
            (Kind::Project, Some(project_id)) => {
                // Whoever comes into a project comes into its organization, on the lowest rung.
                organizations.add(home_id, admin_id, roles.organization.lowest());
                projects.add(project_id, admin_id, &invite.role);
            }
            _ => organizations.add(home_id, admin_id, &invite.role),
        }
    }
    tx.grant_in_organizations(&organizations.into_vec(), &roles.organization)
        .await?;
    tx.grant_in_projects(&projects.into_vec(), &roles.project).await?;
    let notices = notices(tx, &accepted).await?;
    tx.queue_deliveries(&notices).await?;
    Ok(Admitted {
        invites: accepted,
        refused,
    })
}

/// The invites whose inviter has lost the right to hand out the role, or is gone.
async fn without_right(tx: &mut Tx, waiting: &[&Waiting], roles: &Roles) -> Result<Vec<Uuid>, StoreError> {
    let inviters: HashSet<Uuid> = waiting.iter().filter_map(|waiting| waiting.invite.invited_by).collect();
    if inviters.is_empty() {
        return Ok(Vec::new());
    }
    let inviters: Vec<Uuid> = inviters.into_iter().collect();
    let by_pair = |memberships: Vec<Membership>| -> HashMap<(Uuid, Uuid), String> {
        memberships
            .into_iter()
            .map(|held| ((held.place_id, held.admin_id), held.role))
            .collect()
    };
    let organizations = by_pair(tx.organization_memberships(&inviters).await?);
    let projects = by_pair(tx.project_memberships(&inviters).await?);
    let lost_right = |waiting: &&&Waiting| {
        let Some(inviter) = waiting.invite.invited_by else {
            return false;
        };
        let held = Held {
            organization: organizations.get(&(waiting.home_id, inviter)).cloned(),
            project: waiting
                .invite
                .project_id
                .and_then(|id| projects.get(&(id, inviter)).cloned()),
        };
        !match waiting.invite.kind {
            Kind::Organization => roles.may_grant_in_organization(&held, &waiting.invite.role),
            Kind::Project => roles.may_grant_in_project(&held, &waiting.invite.role),
        }
    };
    Ok(waiting
        .iter()
        .filter(lost_right)
        .map(|waiting| waiting.invite.id)
        .collect())
}

/// The highest role per place and person: one statement must not touch a row twice.
struct Grants<'a> {
    ladder: &'a Ladder,
    roles: HashMap<(Uuid, Uuid), String>,
}

impl<'a> Grants<'a> {
    fn new(ladder: &'a Ladder) -> Self {
        Self {
            ladder,
            roles: HashMap::new(),
        }
    }

    fn add(&mut self, place_id: Uuid, admin_id: Uuid, role: &str) {
        let held = self
            .roles
            .entry((place_id, admin_id))
            .or_insert_with(|| role.to_owned());
        if self.ladder.rank(role) > self.ladder.rank(held) {
            role.clone_into(held);
        }
    }

    fn into_vec(self) -> Vec<Grant> {
        let grant = |((place_id, admin_id), role)| Grant {
            place_id,
            admin_id,
            role,
        };
        self.roles.into_iter().map(grant).collect()
    }
}

/// One notice for each invite whose inviter can be written to.
async fn notices(tx: &mut Tx, accepted: &[Invite]) -> Result<Vec<NewDelivery>, StoreError> {
    let inviters: Vec<Uuid> = accepted.iter().filter_map(|invite| invite.invited_by).collect();
    let addresses = tx.addresses_of_people(&inviters).await?;
    Ok(accepted
        .iter()
        .filter_map(|invite| {
            let to_email = addresses.get(&invite.invited_by?)?.clone();
            Some(NewDelivery {
                invite_id: invite.id,
                kind: DeliveryKind::AcceptedNotice,
                to_email,
            })
        })
        .collect())
}
