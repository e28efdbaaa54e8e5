//! Asking addresses into places: a set at a time, few round trips, one bad item spoils no other.

use std::collections::{HashMap, HashSet};

use chrono::TimeDelta;
use uuid::Uuid;

use super::mail_caps::{WantedMail, count_mails, room_for_mails};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::invites::limits::MailCaps;
use crate::invites::roles::{Held, Roles};
use crate::invites::{Acceptance, Invite};
use crate::store::{DeliveryKind, Membership, NewDelivery, NewInvite, PersonRef, Place, StoreError, Tx};

/// Where somebody is invited into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// An organization.
    Organization(Uuid),
    /// A project.
    Project(Uuid),
}

/// The app's name for who invites.
pub type Inviter = PersonRef;

/// One address to be asked.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// Into what.
    pub target: Target,
    /// Who.
    pub email: EmailAddress,
    /// As what.
    pub role: String,
    /// By whom; an app may invite in its own name.
    pub invited_by: Option<Inviter>,
    /// For how long.
    pub expires_in: TimeDelta,
    /// Let in, or ask.
    pub acceptance: Acceptance,
    /// In which language.
    pub locale: Option<String>,
    /// With which words.
    pub message: Option<String>,
}

/// An address that was asked.
#[derive(Debug, Clone)]
pub struct Invited {
    /// The invite.
    pub invite: Invite,
    /// `false` if the address was already asked, and its invite made fresh.
    pub is_new: bool,
}

/// Why an address is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such organization or project.
    UnknownTarget,
    /// The role is not on the target's ladder.
    UnknownRole,
    /// There is no such inviter, or nobody whom the caller may know of.
    UnknownInviter,
    /// The inviter may not hand out this role here.
    RoleAboveInviter,
    /// The address is the inviter's own.
    OwnAddress,
    /// Its owner is in already, with that role or a higher one.
    AlreadyMember,
    /// The inviter has asked for so many mails today, or so many were asked for into the organization, that no more go out.
    TooManyMails,
}

/// Asks addresses; the answers stand in the order of the invitations. Where the caller is limited to some
/// `organizations`, everything else is to it as if it were not there.
///
/// # Errors
/// [`StoreError`].
pub async fn invite(
    tx: &mut Tx,
    invitations: &[Invitation],
    roles: &Roles,
    caps: MailCaps,
    organizations: Option<&HashSet<Uuid>>,
) -> Result<Vec<Result<Invited, Refusal>>, StoreError> {
    let mut surroundings = Surroundings::load(tx, invitations).await?;
    if let Some(organizations) = organizations {
        surroundings.is_limited = true;
        surroundings
            .places
            .retain(|_, place| organizations.contains(&place.organization_id));
        // So are people who have nothing to do with them.
        let named: Vec<Uuid> = surroundings.inviters.values().copied().collect();
        let theirs = tx.people_within(&named, organizations).await?;
        surroundings.inviters.retain(|_, id| theirs.contains(id));
    }
    let now = tx.now();
    let mut answers: Vec<Option<Result<Invited, Refusal>>> = vec![None; invitations.len()];
    let mut open: Vec<usize> = Vec::new();
    for (i, invitation) in invitations.iter().enumerate() {
        match surroundings.check(invitation, roles) {
            Ok(()) => open.push(i),
            Err(refusal) => answers[i] = Some(Err(refusal)),
        }
    }
    let wanted: Vec<WantedMail> = open
        .iter()
        .filter_map(|&i| surroundings.wanted_mail(&invitations[i]))
        .collect();
    let granted = room_for_mails(tx, &wanted, caps).await?;
    let sent: Vec<WantedMail> = wanted
        .iter()
        .zip(&granted)
        .filter(|(_, granted)| **granted)
        .map(|(mail, _)| *mail)
        .collect();
    let mut granted = granted.into_iter();
    open.retain(|&i| {
        let is_granted = granted.next().unwrap_or(false);
        if !is_granted {
            answers[i] = Some(Err(Refusal::TooManyMails));
        }
        is_granted
    });
    // A statement must not touch a row twice: a repeated address waits for the next round, as if asked again.
    while !open.is_empty() {
        let mut seen = HashSet::new();
        let (round, later): (Vec<usize>, Vec<usize>) = open
            .iter()
            .partition(|&&i| seen.insert((invitations[i].target, invitations[i].email.key())));
        let new: Vec<NewInvite> = round
            .iter()
            .filter_map(|&i| surroundings.new_invite(tx, &invitations[i], now))
            .collect();
        let saved = tx.save_invites(&new).await?;
        let fresh: HashSet<Uuid> = new.iter().map(|invite| invite.id).collect();
        let mut by_target: HashMap<(Target, EmailKey), Invite> = saved
            .into_iter()
            .map(|invite| ((target_of(&invite), invite.email_key.clone()), invite))
            .collect();
        let mut mails = Vec::with_capacity(round.len());
        for i in round {
            let key = (invitations[i].target, invitations[i].email.key().clone());
            let Some(invite) = by_target.remove(&key) else { continue };
            mails.push(NewDelivery {
                invite_id: invite.id,
                kind: DeliveryKind::Invite,
                to_email: invite.email.clone(),
            });
            answers[i] = Some(Ok(Invited {
                is_new: fresh.contains(&invite.id),
                invite,
            }));
        }
        tx.queue_deliveries(&mails).await?;
        open = later;
    }
    count_mails(tx, &sent, caps).await?;
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or(Err(Refusal::UnknownTarget)))
        .collect())
}

fn target_of(invite: &Invite) -> Target {
    invite
        .project_id
        .map_or(Target::Organization(invite.organization_id), Target::Project)
}

/// All that the rules need to know, loaded for the whole set.
struct Surroundings {
    /// Whether the caller is limited to some organizations.
    is_limited: bool,
    places: HashMap<Target, Place>,
    inviters: HashMap<Inviter, Uuid>,
    owners: HashMap<EmailKey, Vec<Uuid>>,
    organization_roles: HashMap<(Uuid, Uuid), String>,
    project_roles: HashMap<(Uuid, Uuid), String>,
}

impl Surroundings {
    async fn load(tx: &mut Tx, invitations: &[Invitation]) -> Result<Self, StoreError> {
        let mut organizations = Vec::new();
        let mut projects = Vec::new();
        for invitation in invitations {
            match invitation.target {
                Target::Organization(id) => organizations.push(id),
                Target::Project(id) => projects.push(id),
            }
        }
        let mut places = HashMap::new();
        if !organizations.is_empty() {
            let found = tx.organizations(&organizations).await?;
            places.extend(found.into_iter().map(|place| (Target::Organization(place.id), place)));
        }
        if !projects.is_empty() {
            // None of them is moved while it is invited into.
            tx.hold_projects(&projects).await?;
            let found = tx.projects(&projects).await?;
            places.extend(found.into_iter().map(|place| (Target::Project(place.id), place)));
        }
        let named: HashSet<Inviter> = invitations
            .iter()
            .filter_map(|invitation| invitation.invited_by.clone())
            .collect();
        let inviters = tx.live_people(&named.into_iter().collect::<Vec<_>>()).await?;
        let keys: Vec<&EmailKey> = invitations.iter().map(|invitation| invitation.email.key()).collect();
        let mut owners: HashMap<EmailKey, Vec<Uuid>> = HashMap::new();
        for (key, admin_id) in tx.owners_of(&keys).await? {
            owners.entry(key).or_default().push(admin_id);
        }
        let people: HashSet<Uuid> = inviters.values().chain(owners.values().flatten()).copied().collect();
        let people: Vec<Uuid> = people.into_iter().collect();
        let (organization_roles, project_roles) = if people.is_empty() {
            (Vec::new(), Vec::new())
        } else {
            (
                tx.organization_memberships(&people).await?,
                tx.project_memberships(&people).await?,
            )
        };
        let by_pair = |memberships: Vec<Membership>| {
            memberships
                .into_iter()
                .map(|held| ((held.place_id, held.admin_id), held.role))
                .collect()
        };
        Ok(Self {
            is_limited: false,
            places,
            inviters,
            owners,
            organization_roles: by_pair(organization_roles),
            project_roles: by_pair(project_roles),
        })
    }

    /// The rules, in the order in which a caller would want to hear of them.
    fn check(&self, invitation: &Invitation, roles: &Roles) -> Result<(), Refusal> {
        let place = self.places.get(&invitation.target).ok_or(Refusal::UnknownTarget)?;
        let ladder = match invitation.target {
            Target::Organization(_) => &roles.organization,
            Target::Project(_) => &roles.project,
        };
        if ladder.rank(&invitation.role).is_none() {
            return Err(Refusal::UnknownRole);
        }
        let owners = self.owners.get(invitation.email.key()).map_or(&[][..], Vec::as_slice);
        if let Some(inviter) = &invitation.invited_by {
            let inviter = *self.inviters.get(inviter).ok_or(Refusal::UnknownInviter)?;
            let is_own = owners.contains(&inviter);
            // It tells whose an address is: to a limited caller only of an inviter who may invite there.
            if is_own && !self.is_limited {
                return Err(Refusal::OwnAddress);
            }
            let held = self.held(inviter, invitation.target, place);
            let may_grant = match invitation.target {
                Target::Organization(_) => roles.may_grant_in_organization(&held, &invitation.role),
                Target::Project(_) => roles.may_grant_in_project(&held, &invitation.role),
            };
            if !may_grant {
                return Err(Refusal::RoleAboveInviter);
            }
            if is_own {
                return Err(Refusal::OwnAddress);
            }
        }
        let is_in = |&owner: &Uuid| {
            let held = self.held(owner, invitation.target, place);
            match invitation.target {
                Target::Organization(_) => held
                    .organization
                    .is_some_and(|role| roles.organization.reaches(&role, &invitation.role)),
                Target::Project(_) => {
                    held.organization
                        .as_deref()
                        .is_some_and(|role| roles.manages_organization(role))
                        || held
                            .project
                            .is_some_and(|role| roles.project.reaches(&role, &invitation.role))
                }
            }
        };
        if owners.iter().any(is_in) {
            Err(Refusal::AlreadyMember)
        } else {
            Ok(())
        }
    }

    fn held(&self, admin_id: Uuid, target: Target, place: &Place) -> Held {
        Held {
            organization: self.organization_roles.get(&(place.organization_id, admin_id)).cloned(),
            project: match target {
                Target::Organization(_) => None,
                Target::Project(id) => self.project_roles.get(&(id, admin_id)).cloned(),
            },
        }
    }

    fn inviter(&self, invitation: &Invitation) -> Option<Uuid> {
        self.inviters.get(invitation.invited_by.as_ref()?).copied()
    }

    fn wanted_mail(&self, invitation: &Invitation) -> Option<WantedMail> {
        Some(WantedMail {
            inviter: self.inviter(invitation),
            organization: self.places.get(&invitation.target)?.organization_id,
        })
    }

    fn new_invite(&self, tx: &Tx, invitation: &Invitation, now: chrono::DateTime<chrono::Utc>) -> Option<NewInvite> {
        let place = self.places.get(&invitation.target)?;
        Some(NewInvite {
            id: tx.new_id(),
            organization_id: place.organization_id,
            project_id: match invitation.target {
                Target::Organization(_) => None,
                Target::Project(id) => Some(id),
            },
            email: invitation.email.clone(),
            role: invitation.role.clone(),
            acceptance: invitation.acceptance,
            invited_by: self.inviter(invitation),
            locale: invitation.locale.clone(),
            message: invitation.message.clone(),
            expires_at: now + invitation.expires_in,
        })
    }
}
