//! Open invites and the people who have their address.

use std::collections::HashMap;

use uuid::Uuid;

use super::{accept_facts, invite_columns};
use crate::invites::Invite;
use crate::invites::accept::AcceptFacts;
use crate::invites::email::EmailKey;
use crate::invites::matching::Person;
use crate::store::rows::{checked, of_texts, sql, texts_json};
use crate::store::{Result, Tx, on_conn};

/// An open invite and a person who has its address, verified.
#[derive(Debug, Clone)]
pub struct InviteCandidate {
    pub invite: Invite,
    pub person: Person,
    /// The organization of the membership: for a project, the organization that it belongs to today.
    pub target_organization_id: Uuid,
    /// The data that decides whether the person may accept it.
    pub facts: AcceptFacts,
}

impl InviteCandidate {
    /// The organization that the person becomes a member of, and the project if there is one.
    pub fn target_ids(&self) -> impl Iterator<Item = Uuid> {
        [Some(self.target_organization_id), self.invite.project_id]
            .into_iter()
            .flatten()
    }

    /// Whether this person dismissed the banner.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.invite.dismissed_at.is_some() && self.invite.flagged_for == Some(self.person.id)
    }
}

/// An open invite and its target.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenInvite {
    #[sqlx(flatten)]
    pub invite: Invite,
    /// The organization: for a project, the one that it belongs to today.
    pub target_organization_id: Uuid,
    /// The data that decides whether it may be accepted.
    #[sqlx(flatten)]
    pub facts: AcceptFacts,
}

impl Tx {
    /// The open invites for existing targets whose address is a verified address of these people, oldest first.
    pub async fn invite_candidates(&mut self, people: &[Person]) -> Result<Vec<InviteCandidate>> {
        // Joined here: without statistics, Postgres would read all addresses for each invite.
        let ids: Vec<Uuid> = people.iter().map(|person| person.id).collect();
        let owners = self.verified_addresses(&ids).await?;
        let people: HashMap<Uuid, Person> = people.iter().map(|person| (person.id, *person)).collect();
        let invites = self.open_invites_to(owners.keys().map(String::as_str)).await?;
        let waiting = |open: OpenInvite| {
            let owners = owners.get(open.invite.email_key.as_str()).into_iter().flatten();
            let waiting = owners.filter_map(|id| people.get(id)).map(|&person| InviteCandidate {
                invite: open.invite.clone(),
                person,
                target_organization_id: open.target_organization_id,
                facts: open.facts.clone(),
            });
            waiting.collect::<Vec<_>>()
        };
        Ok(invites.into_iter().flat_map(waiting).collect())
    }

    /// The open invites of these addresses for existing targets, oldest first.
    pub async fn pending_invites_at(&mut self, keys: &[&EmailKey]) -> Result<Vec<OpenInvite>> {
        self.open_invites_to(keys.iter().map(|key| key.as_str())).await
    }

    async fn open_invites_to(&mut self, email_keys: impl Iterator<Item = &str>) -> Result<Vec<OpenInvite>> {
        let keys: Vec<&str> = email_keys.collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let addressed = of_texts(self.dialect(), "i.email_key");
        let text = format!(
            "select {}, o.id as target_organization_id, {}
             from invites i
             left join usher_projects p on p.id = i.project_id
             join usher_organizations o on o.id = coalesce(p.organization_id, i.organization_id) and o.deleted_at is null
             where i.status = 'pending' and {addressed} and {}
               and (i.project_id is null or p.deleted_at is null)
             order by i.created_at, i.id",
            invite_columns("i."),
            accept_facts(),
            checked("i.expires_at > $2")
        );
        let keys = texts_json(&keys)?;
        let now = self.clock.now();
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(keys)
            .bind(now)
            .fetch_all(conn)
            .await)?)
    }

    /// The invite, open or not, if its address is a verified address of this person. `None` if its target was deleted.
    pub async fn invite_of(&mut self, id: Uuid, person_id: Uuid) -> Result<Option<Invite>> {
        let text = format!(
            "select {} from invites i
             join usher_addresses a on a.email_key = i.email_key and a.verified and a.person_id = $2
             left join usher_projects p on p.id = i.project_id
             join usher_organizations o on o.id = coalesce(p.organization_id, i.organization_id) and o.deleted_at is null
             where i.id = $1 and (i.project_id is null or p.deleted_at is null)",
            invite_columns("i.")
        );
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(id)
            .bind(person_id)
            .fetch_optional(conn)
            .await)?)
    }

    /// The open invites whose banner this person dismissed.
    pub async fn dismissed_by(&mut self, person_id: Uuid) -> Result<Vec<Uuid>> {
        Ok(on_conn!(self, |conn| sqlx::query_scalar(
            "select id from invites where status = 'pending' and flagged_for = $1 and dismissed_at is not null"
        )
        .bind(person_id)
        .fetch_all(conn)
        .await)?)
    }
}
