//! Creates and renews invites: a batch at a time with few round trips; a bad item does not affect the others.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::mail_caps::{Reservation, WantedMail, count_mails, room_for_mails};
use super::members::load_targets;
use crate::app_id::AppId;
use crate::config::Config;
use crate::fields::FieldError;
use crate::invites::accept::{InviterFacts, Obstacle};
use crate::invites::email::{EmailAddress, EmailKey};
use crate::invites::limits::{MailCaps, MailHold, REPETITION, RecentMails};
use crate::invites::roles::{EffectiveRoles, Roles};
use crate::invites::{Acceptance, InvalidRequest, Invite, InviteRequest, PersonRef, Target};
use crate::store::{DeliveryKind, InviterAt, Membership, NewDelivery, NewInvite, Refresh, StoreError, TargetInfo, Tx};

#[derive(Debug, Clone)]
pub struct Invited {
    pub invite: Invite,
    /// `false` if the address already had an invite, which was renewed.
    pub is_new: bool,
    /// Why no mail is sent, if none is.
    pub held: Option<MailHold>,
}

/// Why an address is not invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// These fields are wrong.
    Invalid(Vec<FieldError>),
    /// The inviter may not give this role.
    RoleAboveInviter,
    /// The inviter could give this role, but is banned or locked.
    InviterBlocked,
    /// Its owner is a member with that role or a higher one.
    AlreadyMember,
    /// The daily cap of mails by the inviter, or for the organization, is reached.
    TooManyMails,
}

/// What inviting goes by.
#[derive(Debug, Clone, Copy)]
pub struct InviteRules<'a> {
    pub roles: &'a Roles,
    pub caps: MailCaps,
    /// How long an invite is valid that does not say so.
    pub ttl: TimeDelta,
}

impl<'a> From<&'a Config> for InviteRules<'a> {
    fn from(config: &'a Config) -> Self {
        Self {
            roles: &config.roles,
            caps: config.mail_caps,
            ttl: config.invite_ttl,
        }
    }
}

/// A request as it was read.
pub type ReadRequest = Result<InviteRequest, InvalidRequest>;

/// Invites addresses; the answers are in the order of the requests. For a caller that is limited to some
/// `organizations`, everything else does not exist.
pub async fn invite(
    tx: &mut Tx,
    requests: &[ReadRequest],
    rules: &InviteRules<'_>,
    organizations: Option<&HashSet<Uuid>>,
) -> Result<Vec<Result<Invited, Refusal>>, StoreError> {
    let caps = rules.caps;
    let mut surroundings = Surroundings::load(tx, requests, organizations).await?;
    if let Some(organizations) = organizations {
        // People without a membership in them don't exist for the caller either.
        let named: Vec<Uuid> = surroundings.inviters.values().copied().collect();
        let theirs = tx.people_within(&named, organizations).await?;
        surroundings.inviters.retain(|_, id| theirs.contains(id));
    }
    let mut answers: Vec<Option<Result<Invited, Refusal>>> = vec![None; requests.len()];
    let mut open: Vec<(usize, &InviteRequest)> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        match surroundings.check(request, rules.roles) {
            Ok(request) => open.push((i, request)),
            Err(refusal) => answers[i] = Some(Err(refusal)),
        }
    }
    let mut sent: Vec<WantedMail> = Vec::new();
    // A statement must not update a row twice: a repeated address waits for the next round, like a second invitation.
    while !open.is_empty() {
        let mut seen = HashSet::new();
        let (round, later): (Vec<_>, Vec<_>) = open
            .into_iter()
            .partition(|(_, request)| seen.insert((request.target, request.body.email.key())));
        let new: Vec<NewInvite> = round
            .iter()
            .filter_map(|(_, request)| surroundings.new_invite(tx, request, rules.ttl))
            .collect();
        let mut by_key = ask(tx, &new, &mut sent, caps).await?;
        for (i, request) in round {
            answers[i] = by_key.remove(&(request.target, request.body.email.key().clone()));
        }
        open = later;
    }
    count_mails(tx, &sent, caps).await?;
    let gone = |request: &ReadRequest| {
        Refusal::Invalid(request.iter().map(|request| unknown_target(request.target)).collect())
    };
    let answers = answers.into_iter().zip(requests);
    Ok(answers
        .map(|(answer, request)| answer.unwrap_or_else(|| Err(gone(request))))
        .collect())
}

/// Invites each address once, and adds the mails to `sent`. The invites' rows are locked while the decisions about them
/// are made.
async fn ask(
    tx: &mut Tx,
    new: &[NewInvite],
    sent: &mut Vec<WantedMail>,
    caps: MailCaps,
) -> Result<HashMap<(Target, EmailKey), Result<Invited, Refusal>>, StoreError> {
    let now = tx.now();
    let saved = tx.save_invites(new).await?;
    let mut saved: HashMap<(Target, EmailKey), Invite> = saved
        .into_iter()
        .map(|invite| ((target_of(&invite), invite.email_key.clone()), invite))
        .collect();
    // In the order of the request: if a cap leaves room for some mails only, the first ones get it.
    let pairs: Vec<(Invite, &NewInvite)> = new
        .iter()
        .filter_map(|asked| {
            let target = target(asked.organization_id, asked.project_id);
            Some((saved.remove(&(target, asked.email.key().clone()))?, asked))
        })
        .collect();
    let there: Vec<Uuid> = pairs
        .iter()
        .filter(|(invite, asked)| invite.id != asked.id)
        .map(|(invite, _)| invite.id)
        .collect();
    let mails = tx.mails_since(&there, RecentMails::since(now)).await?;
    let mut steps: Vec<Step> = pairs
        .iter()
        .map(|(invite, asked)| {
            let recent = mails.get(&invite.id).copied().unwrap_or_default();
            next_step(invite, asked, recent, now)
        })
        .collect();
    keep_to_the_caps(tx, &pairs, &mut steps, sent, caps).await?;
    carry_out(tx, pairs, &steps).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Invite or renew, and send a mail.
    Mail,
    /// Invite or renew, without a mail.
    Hold(MailHold),
    /// Change nothing: the same request was made a moment ago.
    Repeat,
    /// Don't invite.
    Refuse,
}

/// The next step for an address, from its own invite only.
fn next_step(invite: &Invite, asked: &NewInvite, recent: RecentMails, now: DateTime<Utc>) -> Step {
    if invite.id == asked.id {
        return Step::Mail;
    }
    if is_repetition(invite, asked, now) {
        return Step::Repeat;
    }
    recent.hold(now).map_or(Step::Mail, |(hold, _)| Step::Hold(hold))
}

/// Validity periods that differ by less count as equal: the two ends were computed at slightly different times.
const SAME_LIFE: TimeDelta = TimeDelta::seconds(30);

/// Whether the same invitation was made a moment ago and its invite is still open.
fn is_repetition(invite: &Invite, asked: &NewInvite, now: DateTime<Utc>) -> bool {
    let difference = (invite.expires_at - invite.invited_at) - (asked.expires_at - now);
    invite.is_open_at(now)
        && (now - invite.invited_at).abs() < REPETITION
        && difference.abs() < SAME_LIFE
        && invite.organization_id == asked.organization_id
        && invite.email == asked.email.as_str()
        && invite.role == asked.role
        && invite.acceptance == asked.acceptance
        && invite.invited_by == asked.invited_by
        && invite.details == asked.details
}

/// Applies the daily caps: without room for a mail, the invite is made without one, or not at all.
async fn keep_to_the_caps(
    tx: &mut Tx,
    pairs: &[(Invite, &NewInvite)],
    steps: &mut [Step],
    sent: &mut Vec<WantedMail>,
    caps: MailCaps,
) -> Result<(), StoreError> {
    let mut with_mail: Vec<(&mut Step, WantedMail)> = steps
        .iter_mut()
        .zip(pairs)
        .filter(|(step, _)| **step == Step::Mail)
        .map(|(step, (_, asked))| {
            let wanted = WantedMail {
                inviter: asked.invited_by,
                organization: Some(asked.organization_id),
                address: asked.email.key().digest(),
            };
            (step, wanted)
        })
        .collect();
    let wanted: Vec<WantedMail> = with_mail.iter().map(|(_, wanted)| *wanted).collect();
    let room = room_for_mails(tx, &wanted, sent, caps).await?;
    for ((step, wanted), reservation) in with_mail.iter_mut().zip(room) {
        match reservation {
            Reservation::Granted => sent.push(*wanted),
            Reservation::AddressCap => **step = Step::Hold(MailHold::AddressCap),
            Reservation::DailyCap => **step = Step::Refuse,
        }
    }
    Ok(())
}

async fn carry_out(
    tx: &mut Tx,
    pairs: Vec<(Invite, &NewInvite)>,
    steps: &[Step],
) -> Result<HashMap<(Target, EmailKey), Result<Invited, Refusal>>, StoreError> {
    let mut refreshes = Vec::new();
    let (mut unmade, mut held, mut mails) = (Vec::new(), Vec::new(), Vec::new());
    for ((invite, asked), step) in pairs.iter().zip(steps) {
        let is_new = invite.id == asked.id;
        match step {
            Step::Refuse if is_new => unmade.push(invite.id),
            Step::Refuse | Step::Repeat => {}
            Step::Hold(MailHold::AddressCap) if is_new => held.push(invite.id),
            Step::Hold(_) | Step::Mail if is_new => {}
            Step::Hold(_) | Step::Mail => refreshes.push(Refresh {
                invite_id: invite.id,
                asked: (*asked).clone(),
                sends_mail: *step == Step::Mail,
                held: match step {
                    Step::Hold(hold) => Some(*hold),
                    _ => None,
                },
            }),
        }
        if *step == Step::Mail {
            mails.push(NewDelivery {
                invite_id: invite.id,
                kind: DeliveryKind::Invite,
                to_email: asked.email.as_str().to_owned(),
            });
        }
    }
    tx.delete_new_invites(&unmade).await?;
    tx.record_held_mails(&held, MailHold::AddressCap).await?;
    let fresh = tx.refresh_invites(&refreshes).await?;
    let mut fresh: HashMap<Uuid, Invite> = fresh.into_iter().map(|invite| (invite.id, invite)).collect();
    tx.queue_deliveries(&mails).await?;
    let answer = |((invite, asked), step): ((Invite, &NewInvite), &Step)| {
        let key = (target_of(&invite), invite.email_key.clone());
        let answer = match step {
            Step::Refuse => Err(Refusal::TooManyMails),
            _ => Ok(Invited {
                is_new: invite.id == asked.id,
                held: match step {
                    Step::Hold(hold) => Some(*hold),
                    _ => None,
                },
                invite: fresh.remove(&invite.id).unwrap_or(invite),
            }),
        };
        (key, answer)
    };
    Ok(pairs.into_iter().zip(steps).map(answer).collect())
}

fn target(organization_id: Uuid, project_id: Option<Uuid>) -> Target {
    project_id.map_or(Target::Organization(organization_id), Target::Project)
}

fn target_of(invite: &Invite) -> Target {
    target(invite.organization_id, invite.project_id)
}

/// The data that the rules need, loaded for the whole batch.
struct Surroundings {
    /// Whether the caller is limited to some organizations.
    is_limited: bool,
    targets: HashMap<Target, TargetInfo>,
    inviters: HashMap<PersonRef, Uuid>,
    inviter_facts: HashMap<InviterAt, InviterFacts>,
    owners: HashMap<EmailKey, Vec<Uuid>>,
    organization_roles: HashMap<(Uuid, Uuid), String>,
    project_roles: HashMap<(Uuid, Uuid), String>,
}

impl Surroundings {
    async fn load(
        tx: &mut Tx,
        requests: &[ReadRequest],
        organizations: Option<&HashSet<Uuid>>,
    ) -> Result<Self, StoreError> {
        let targets = load_targets(tx, requests.iter().filter_map(target_of_request), organizations).await?;
        let named: HashSet<PersonRef> = requests.iter().filter_map(inviter_of_request).cloned().collect();
        let inviters = tx.live_people(&named.into_iter().collect::<Vec<_>>()).await?;
        let valid = || requests.iter().filter_map(|request| request.as_ref().ok());
        let addresses: Vec<&EmailAddress> = valid().map(|request| &request.body.email).collect();
        let mut owners: HashMap<EmailKey, Vec<Uuid>> = HashMap::new();
        for (key, admin_id) in tx.people_at(&addresses).await? {
            owners.entry(key).or_default().push(admin_id);
        }
        let asking: HashSet<InviterAt> = valid()
            .filter_map(|request| {
                let admin_id = *inviters.get(request.body.invited_by.as_ref()?)?;
                Some(inviter_at(admin_id, request.target, targets.get(&request.target)?))
            })
            .collect();
        let inviter_facts = tx.inviters(&asking.into_iter().collect::<Vec<_>>()).await?;
        let people: HashSet<Uuid> = owners.values().flatten().copied().collect();
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
                .map(|held| ((held.target_id, held.admin_id), held.role))
                .collect()
        };
        Ok(Self {
            is_limited: organizations.is_some(),
            targets,
            inviters,
            inviter_facts,
            owners,
            organization_roles: by_pair(organization_roles),
            project_roles: by_pair(project_roles),
        })
    }

    /// Checks the rules. All wrong fields come first, then the rules in the order that is most useful to the caller.
    fn check<'a>(&self, request: &'a ReadRequest, roles: &Roles) -> Result<&'a InviteRequest, Refusal> {
        let mut errors = request
            .as_ref()
            .err()
            .map(|invalid| invalid.errors.clone())
            .unwrap_or_default();
        let target = target_of_request(request).filter(|target| !self.targets.contains_key(target));
        errors.splice(0..0, target.map(unknown_target));
        if inviter_of_request(request).is_some_and(|inviter| !self.inviters.contains_key(inviter)) {
            errors.push(FieldError::new("invited_by", "is not a known person"));
        }
        let Ok(request) = request else {
            return Err(Refusal::Invalid(errors));
        };
        let Some(info) = self.targets.get(&request.target).filter(|_| errors.is_empty()) else {
            return Err(Refusal::Invalid(errors));
        };
        self.check_inviter(request, info, roles)?;
        self.check_membership(request, info, roles)?;
        Ok(request)
    }

    fn check_inviter(&self, request: &InviteRequest, info: &TargetInfo, roles: &Roles) -> Result<(), Refusal> {
        let Some(inviter) = self.inviter(request) else {
            return Ok(());
        };
        let own_address = || {
            Err(Refusal::Invalid(vec![FieldError::new(
                "email",
                "is the inviter's own address",
            )]))
        };
        let is_own = self.owners(request).contains(&inviter);
        // This answer reveals the owner of an address. A limited caller gets it only if the inviter may invite to
        // this target, so it comes later.
        if is_own && !self.is_limited {
            return own_address();
        }
        let facts = self.inviter_facts.get(&inviter_at(inviter, request.target, info));
        let facts = facts.cloned().unwrap_or_default();
        match facts.obstacle(request.target.kind(), &request.body.role, roles) {
            None if is_own => own_address(),
            None => Ok(()),
            Some(Obstacle::InviterBlocked) => Err(Refusal::InviterBlocked),
            Some(_) => Err(Refusal::RoleAboveInviter),
        }
    }

    fn owners(&self, request: &InviteRequest) -> &[Uuid] {
        self.owners.get(request.body.email.key()).map_or(&[], Vec::as_slice)
    }

    fn check_membership(&self, request: &InviteRequest, info: &TargetInfo, roles: &Roles) -> Result<(), Refusal> {
        let is_in = |&owner: &Uuid| {
            let held = self.held(owner, request.target, info);
            roles.holds(request.target.kind(), &held, &request.body.role)
        };
        if self.owners(request).iter().any(is_in) {
            Err(Refusal::AlreadyMember)
        } else {
            Ok(())
        }
    }

    fn held(&self, admin_id: Uuid, target: Target, info: &TargetInfo) -> EffectiveRoles {
        EffectiveRoles {
            organization: self.organization_roles.get(&(info.organization_id, admin_id)).cloned(),
            project: match target {
                Target::Organization(_) => None,
                Target::Project(id) => self.project_roles.get(&(id, admin_id)).cloned(),
            },
        }
    }

    fn inviter(&self, request: &InviteRequest) -> Option<Uuid> {
        self.inviters.get(request.body.invited_by.as_ref()?).copied()
    }

    fn new_invite(&self, tx: &Tx, request: &InviteRequest, default_ttl: TimeDelta) -> Option<NewInvite> {
        let body = &request.body;
        Some(NewInvite {
            id: tx.new_id(),
            organization_id: self.targets.get(&request.target)?.organization_id,
            project_id: body.project_id.as_ref().map(AppId::key),
            email: body.email.clone(),
            role: body.role.clone(),
            acceptance: body.acceptance.unwrap_or(Acceptance::Default),
            invited_by: self.inviter(request),
            details: body.details(),
            expires_at: tx.now() + body.expires_in.unwrap_or(default_ttl),
        })
    }
}

fn target_of_request(request: &ReadRequest) -> Option<Target> {
    request
        .as_ref()
        .map_or_else(|invalid| invalid.target, |request| Some(request.target))
}

fn inviter_of_request(request: &ReadRequest) -> Option<&PersonRef> {
    match request {
        Ok(request) => request.body.invited_by.as_ref(),
        Err(invalid) => invalid.invited_by.as_ref(),
    }
}

/// The target does not exist, or the caller may not know of it.
#[must_use]
pub fn unknown_target(target: Target) -> FieldError {
    FieldError::new(target.field(), "does not exist; PUT it first")
}

fn inviter_at(admin_id: Uuid, target: Target, info: &TargetInfo) -> InviterAt {
    InviterAt {
        admin_id,
        organization_id: info.organization_id,
        project_id: match target {
            Target::Organization(_) => None,
            Target::Project(id) => Some(id),
        },
    }
}
