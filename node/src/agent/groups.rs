//! Verbs of groups: create, list, show, delete.
//!
//! A group with a volume is a `GroupRecord`, with drives, rows and perhaps a secret. One without is a record of its own
//! that says what was decided about it; it has nothing on any drive. What a volume does with it is `joining`.
//!
//! Crash story: a group goes from one to the other in one transaction, so that a name is never both and never lost.
//!
//! | verb | in one transaction |
//! |---|---|
//! | `group create` | the empty group is there |
//! | `volume create --group` | it goes; group, volume, home row and its extents come |
//! | `volume delete` | volume and group go; the empty group is there again, if it was made by `group create` |
//! | `group delete`, `pool export` | it goes |
mod joining;
#[cfg(test)]
mod tests;

use super::Agent;
use super::view::view_encryption;
use crate::catalogue::{ABSENT, EmptyGroupRecord, GroupRecord, Severity, Versioned, VolumeRecord, records};
use crate::error::{Error, Kind, Result};
use crate::params::CreateGroup;
use crate::{model, text};
use base::BLOCK_BYTES;
pub(super) use joining::{asked_key, check_joins, planned_encryption, volume_key};

impl Agent {
    /// `group create`: without a volume.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` (pool, key), `Exists`, `Permission` (key); nothing is changed then.
    pub fn create_group(&self, params: &CreateGroup, dry: bool) -> Result<model::Group> {
        let name = &params.name;
        text::check_name("group", name)?;
        let key = asked_key("group", name, params.encrypt, params.kek.as_deref())?;
        // The default key is made without the verbs' lock, and not for a request that is refused anyway.
        let by_default = key.is_some() && params.kek.is_none();
        if by_default && !dry && self.same_group(params, key)?.is_none() {
            self.ready_pool(&params.pool)?;
            self.default_key()?;
        }
        let _space = self.lock();
        if let Some(made) = self.same_group(params, key)? {
            return Ok(made);
        }
        let pool = self.ready_pool(&params.pool)?;
        if let Some(key) = key {
            match self.keys.key(key) {
                // It would be made.
                Err(error) if error.kind == Kind::NotFound && by_default && dry => {}
                found => crate::keys::usable(&found?.record)?,
            }
        }
        let empty = EmptyGroupRecord {
            name: name.clone(),
            pool: pool.name.clone(),
            created_at: text::now(),
            key: key.map(str::to_owned),
        };
        if dry {
            return Ok(view_empty(&empty));
        }
        let txn = self.store.txn().expect(records::pool_key(&pool.name), pool.version);
        let txn = txn.expect(records::group_key(name), ABSENT);
        txn.create(records::empty_group_key(name), &empty).commit()?;
        let message = match key {
            Some(key) => format!("group {name} was created, to be encrypted by key {key}"),
            None => format!("group {name} was created"),
        };
        self.events.history(&pool.id, &format!("group create {name}"), &message);
        self.events.record(Severity::Info, "group_create", name, &message);
        Ok(view_empty(&empty))
    }

    /// The group that a repetition of `group create` asks for; `None` if there is none of that name.
    fn same_group(&self, params: &CreateGroup, key: Option<&str>) -> Result<Option<model::Group>> {
        let name = &params.name;
        let group = self.store.get::<GroupRecord>(&records::group_key(name))?;
        let Some(made) = self.made_group(name)? else {
            let Some(group) = group else { return Ok(None) };
            let of = self.volumes_in(&group)?.join(" ");
            let message = format!(
                "there is a group {name} already: volume {of} was made with it, and it goes with that"
            );
            return Err(Error::new(Kind::Exists, name.clone(), message).hint("choose another name"));
        };
        if made.pool == params.pool && made.key.as_deref() == key {
            return self.view_group(name).map(Some);
        }
        let how = made.key.map_or("not encrypted".to_owned(), |key| format!("encrypted by key {key}"));
        let message = format!("group {name} exists with other parameters: pool {}, {how}", made.pool);
        Err(Error::new(Kind::Exists, name.clone(), message).hint("choose another name"))
    }

    /// `group list`: all groups, with and without a volume.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn list_groups(&self) -> Result<Vec<model::Group>> {
        // So that none is seen twice, or not at all, while it gets or loses its volume.
        let _records = self.records();
        let mut groups: Vec<model::Group> =
            self.empty_groups()?.iter().map(|empty| view_empty(empty)).collect();
        for group in self.store.list::<GroupRecord>("groups/")? {
            groups.push(view_full(&group, self.volumes_in(&group)?));
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    /// `group show`.
    ///
    /// # Errors
    /// `NotFound`, or the catalogue's.
    pub fn show_group(&self, name: &str) -> Result<model::Group> {
        let _records = self.records();
        self.view_group(name)
    }

    fn view_group(&self, name: &str) -> Result<model::Group> {
        if let Some(empty) = self.empty_group(name)? {
            return Ok(view_empty(&empty));
        }
        let group = self.group(name)?;
        Ok(view_full(&group, self.volumes_in(&group)?))
    }

    /// `group delete`, of a group without a volume.
    ///
    /// # Errors
    /// `NotFound`, `Refused` while it has a volume.
    pub fn delete_group(&self, name: &str, dry: bool) -> Result<()> {
        let _space = self.lock();
        let Some(empty) = self.empty_group(name)? else {
            let group = self.group(name)?;
            let volumes = self.volumes_in(&group)?.join(" ");
            let then = if group.stays { "" } else { "; the group goes with it" };
            return Err(Error::new(Kind::Refused, name, format!("group {name} has volume {volumes}"))
                .hint(format!("plinth volume delete {volumes} first{then}")));
        };
        if dry {
            return Ok(());
        }
        self.store.txn().remove(records::empty_group_key(name), &empty).commit()?;
        let message = format!("group {name} was deleted");
        let pool = self.pool(&empty.pool)?;
        self.events.history(&pool.id, &format!("group delete {name}"), &message);
        self.events.record(Severity::Info, "group_delete", name, &message);
        Ok(())
    }

    /// A group without a volume.
    pub(super) fn empty_group(&self, name: &str) -> Result<Option<Versioned<EmptyGroupRecord>>> {
        self.store.get(&records::empty_group_key(name))
    }

    /// All groups without a volume.
    pub(super) fn empty_groups(&self) -> Result<Vec<Versioned<EmptyGroupRecord>>> {
        self.store.list("empty-groups/")
    }

    /// Those of a pool.
    pub(super) fn empty_groups_of(&self, pool: &str) -> Result<Vec<Versioned<EmptyGroupRecord>>> {
        Ok(self.empty_groups()?.into_iter().filter(|empty| empty.pool == pool).collect())
    }

    /// Names of the volumes of a group.
    fn volumes_in(&self, group: &GroupRecord) -> Result<Vec<String>> {
        let volumes = self.store.list::<VolumeRecord>("volumes/")?;
        Ok(volumes.into_iter().filter(|v| v.group == group.name).map(|v| v.record.name).collect())
    }
}

/// What asking for a group that is not there answers.
pub(super) fn no_group(name: &str) -> Error {
    Error::new(Kind::NotFound, name, format!("there is no group {name}")).hint("see plinth group list")
}

fn view_empty(empty: &EmptyGroupRecord) -> model::Group {
    model::Group {
        name: empty.name.clone(),
        id: None,
        pool: empty.pool.clone(),
        created_at: empty.created_at.clone(),
        leg_count: None,
        column_count: None,
        stripe_unit_bytes: None,
        volumes: Vec::new(),
        encryption: empty.key.as_deref().map(|key| view_encryption(&planned_encryption(key))),
    }
}

fn view_full(group: &GroupRecord, volumes: Vec<String>) -> model::Group {
    model::Group {
        name: group.name.clone(),
        id: Some(group.id.clone()),
        pool: group.pool.clone(),
        created_at: group.created_at.clone(),
        leg_count: Some(group.legs),
        column_count: Some(group.columns),
        stripe_unit_bytes: Some(u64::from(group.stripe_blocks) * BLOCK_BYTES as u64),
        volumes,
        encryption: group.encryption.as_ref().map(view_encryption),
    }
}
