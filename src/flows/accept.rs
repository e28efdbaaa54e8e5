//! Accepting invites: the status, the memberships and the notice to the inviter, in one transaction. Every way to
//! accept goes through here.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::invites::accept::Obstacle;
use crate::invites::roles::{RoleOrder, Roles};
use crate::invites::{Invite, TargetKind};
use crate::store::{AppRefusal, DeliveryKind, Grant, InviteCandidate, NewAdmin, NewDelivery, StoreError, Tx};
use usher_base::Throttle;

#[derive(Debug, Clone, Default)]
pub struct Accepted {
    /// The people whose invites were accepted, by usher's ids.
    pub people: HashSet<Uuid>,
    /// Invites that can't be accepted now; the reason was recorded, nothing else was changed.
    pub refused: Vec<Refused>,
}

/// An open invite that can't be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub invite_id: Uuid,
    pub obstacle: Obstacle,
}

/// Accepts the invite of each candidate. Invites that are no longer open are skipped. A hundred concurrent calls make
/// one membership and one notice, because one guarded update decides which is first. Whether the role still exists and
/// the inviter may still give it is checked here, at the last moment.
pub async fn accept_candidates(
    tx: &mut Tx,
    waiting: &[&InviteCandidate],
    roles: &Roles,
) -> Result<Accepted, StoreError> {
    // Locked, because a project may be moved while its invite is accepted.
    let waiting = tx.lock_targets(waiting).await?;
    let waiting: Vec<&InviteCandidate> = waiting.iter().collect();
    let (waiting, mut refused) = refuse(tx, &waiting, roles).await?;
    if waiting.is_empty() {
        let people = HashSet::new();
        return Ok(Accepted { people, refused });
    }
    let refusal = match attempt(tx, &waiting, roles).await? {
        Ok(people) => return Ok(Accepted { people, refused }),
        Err(refusal) => refusal,
    };
    // An app's own tables don't take one of them, perhaps the only one.
    let mut people = HashSet::new();
    for candidate in &waiting {
        let alone = if waiting.len() == 1 {
            Err(refusal.clone())
        } else {
            attempt(tx, &[*candidate], roles).await?
        };
        match alone {
            Ok(accepted) => people.extend(accepted),
            Err(refusal) => {
                if let Some(left_out) = APP_REFUSES.admit() {
                    tracing::warn!(invite_id = %candidate.invite.id, left_out, "an invite can't be accepted: {refusal}");
                }
                let obstacle = Obstacle::AppRefuses;
                tx.note_refusals(&[(*candidate, obstacle)]).await?;
                let invite_id = candidate.invite.id;
                refused.push(Refused { invite_id, obstacle });
            }
        }
    }
    Ok(Accepted { people, refused })
}

/// At most one line a minute: each sign-in of an invited person may try it again.
static APP_REFUSES: Throttle = Throttle::per_minute();

/// Accepts all of them, or none if an app's own tables refuse one. Returns who was accepted.
async fn attempt(
    tx: &mut Tx,
    waiting: &[&InviteCandidate],
    roles: &Roles,
) -> Result<Result<HashSet<Uuid>, AppRefusal>, StoreError> {
    let savepoint = tx.savepoint().await?;
    let accepted = accept_all(tx, waiting, roles).await;
    tx.keep(savepoint, accepted).await
}

async fn accept_all(tx: &mut Tx, waiting: &[&InviteCandidate], roles: &Roles) -> Result<HashSet<Uuid>, StoreError> {
    let accepted = tx.accept_invites(waiting).await?;
    let candidates: HashMap<(Uuid, Uuid), &InviteCandidate> = waiting
        .iter()
        .map(|&waiting| ((waiting.invite.id, waiting.person.admin_id), waiting))
        .collect();

    let mut organizations = Grants::new(&roles.organization);
    let mut projects = Grants::new(&roles.project);
    let mut people = HashSet::new();
    let mut new_members = Vec::new();
    for invite in &accepted {
        let Some(admin_id) = invite.accepted_by else { continue };
        let Some(candidate) = candidates.get(&(invite.id, admin_id)) else {
            continue;
        };
        let target_organization_id = candidate.target_organization_id;
        people.insert(candidate.person.id);
        let role = match (invite.kind, invite.project_id) {
            (TargetKind::Project, Some(project_id)) => {
                projects.add(project_id, admin_id, &invite.role);
                // A member of a project becomes a member of its organization, with the lowest role.
                roles.organization.lowest()
            }
            _ => &invite.role,
        };
        organizations.add(target_organization_id, admin_id, role);
        new_members.push(NewAdmin {
            person_id: candidate.person.id,
            organization_id: target_organization_id,
            role: role.to_owned(),
        });
    }
    // A row in `admins` is a member: people get theirs when they become one, not before.
    tx.add_to_admins(&new_members).await?;
    tx.grant_in_organizations(&organizations.into_vec(), &roles.organization)
        .await?;
    tx.grant_in_projects(&projects.into_vec(), &roles.project).await?;
    let notices = notices(tx, &accepted).await?;
    tx.queue_deliveries(&notices).await?;
    Ok(people)
}

/// Splits off the candidates whose invite can't be accepted, and records why.
pub(super) async fn refuse<'a>(
    tx: &mut Tx,
    waiting: &[&'a InviteCandidate],
    roles: &Roles,
) -> Result<(Vec<&'a InviteCandidate>, Vec<Refused>), StoreError> {
    let mut open = Vec::with_capacity(waiting.len());
    let mut refused = Vec::new();
    for &waiting in waiting {
        match waiting.facts.obstacle(roles) {
            None => open.push(waiting),
            Some(obstacle) => refused.push((waiting, obstacle)),
        }
    }
    tx.note_refusals(&refused).await?;
    let refused = refused.into_iter().map(|(waiting, obstacle)| Refused {
        invite_id: waiting.invite.id,
        obstacle,
    });
    Ok((open, refused.collect()))
}

/// The highest role per target and person: one statement must not update a row twice.
struct Grants<'a> {
    order: &'a RoleOrder,
    roles: HashMap<(Uuid, Uuid), String>,
}

impl<'a> Grants<'a> {
    fn new(order: &'a RoleOrder) -> Self {
        Self {
            order,
            roles: HashMap::new(),
        }
    }

    fn add(&mut self, target_id: Uuid, admin_id: Uuid, role: &str) {
        let held = self
            .roles
            .entry((target_id, admin_id))
            .or_insert_with(|| role.to_owned());
        if self.order.rank(role) > self.order.rank(held) {
            role.clone_into(held);
        }
    }

    fn into_vec(self) -> Vec<Grant> {
        let grant = |((target_id, admin_id), role)| Grant {
            target_id,
            admin_id,
            role,
        };
        self.roles.into_iter().map(grant).collect()
    }
}

/// One notice for each invite whose inviter has an address.
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
