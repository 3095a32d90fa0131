//! What the agent writes into the headers of a group's home row: names for an import and, of an encrypted group, its
//! envelope. So whoever has the drives and the wrapping key has everything.
//!
//! | what changes | written | in the catalogue |
//! |---|---|---|
//! | names (rename, resize) | before | a repetition writes them again, under a higher number |
//! | the envelope (rotation) | behind | the version of the key before stays until every drive has it |
//! | the home row itself (a move) | behind | what was left is wiped when the new home has both |
//!
//! One drive after the other, each flushed, so that a cut tears at most one header; of the others the newest writing counts.
//! Under the verbs' lock: a header is read, changed and written, and two of that at once would undo each other. A drive that
//! is missing keeps what it has, with an older number, and gets the rest when its group is attached the next time, or when
//! it is current again.
use super::Agent;
use super::pools::uuid;
use crate::catalogue::{CopyState, DriveState, GroupRecord, PoolRecord, VolumeRecord};
use crate::drives::Media;
use crate::error::{Error, Kind, Result};
use crate::keys::{GroupSecret, seal};
use base::{Block, DriveBlock, ExtentNo};
use volume::keys::GroupKeys;
use volume::label::extent_start;
use volume::names::NameSeal;
use volume::{Header, Names, StoredEnvelope};

/// What the headers of one writing get.
pub(super) struct HeaderContent {
    names: Names,
    /// Of an encrypted group: its keys, the salt of this writing, its envelope.
    sealed: Option<(GroupKeys, [u8; 32], StoredEnvelope)>,
}

impl HeaderContent {
    /// The names of a group and its volume under this number, and its envelope.
    pub fn new(
        group: &GroupRecord,
        volume: &VolumeRecord,
        secret: Option<&GroupSecret>,
        written: u32,
    ) -> Result<Self> {
        let names = Names {
            written,
            group: group.name.clone(),
            volume: volume.name.clone(),
            volume_id: uuid(&volume.id)?,
            size_bytes: volume.size_bytes,
        };
        let Some(envelope) = envelope_of(group) else { return Ok(Self { names, sealed: None }) };
        // Without its keys nothing of an encrypted group is written, least of all in plain.
        let secret =
            secret.ok_or_else(|| Error::new(Kind::Failed, group.name.clone(), "the keys are not at hand"))?;
        let mut salt = [0; 32];
        seal::random(&mut salt)?;
        Ok(Self { names, sealed: Some((secret.keys(), salt, envelope)) })
    }

    /// Puts it into a header.
    pub fn put(&self, block: &mut Block) {
        match &self.sealed {
            Some((keys, salt, envelope)) => {
                self.names.put(block, Some(&NameSeal { keys, salt: *salt }));
                envelope.put(block);
            }
            None => self.names.put(block, None),
        }
    }
}

/// The envelope as headers have it; `None` of a plain group.
fn envelope_of(group: &GroupRecord) -> Option<StoredEnvelope> {
    let by = group.encryption.as_ref()?;
    let bytes = by.envelope.as_ref().map(crate::keys::Envelope::encode).unwrap_or_default();
    Some(StoredEnvelope::new(by.envelope_written, &bytes))
}

/// A header of a home row that is right.
struct HomeHeader {
    media: Media,
    at: DriveBlock,
    block: Box<Block>,
}

impl HomeHeader {
    /// Writes this envelope, unless it is there.
    fn renew(mut self, envelope: &StoredEnvelope) -> Result<()> {
        if StoredEnvelope::read(&self.block).ok().flatten().as_ref() == Some(envelope) {
            return Ok(());
        }
        envelope.put(&mut self.block);
        self.write()
    }

    fn write(&self) -> Result<()> {
        self.media.write(self.at, &self.block)?;
        self.media.flush()
    }
}

impl Agent {
    /// The keys of a group; `None` of a plain one.
    ///
    /// # Errors
    /// `Permission`, `Unreachable`: its wrapping key cannot be had.
    pub(crate) fn group_secret(&self, group: &GroupRecord) -> Result<Option<GroupSecret>> {
        let Some(by) = &group.encryption else { return Ok(None) };
        let Some(envelope) = &by.envelope else {
            let message = format!(
                "key {} was destroyed, and with it group {}: nobody can read it any more",
                by.key, group.name
            );
            return Err(Error::new(Kind::Permission, by.key.clone(), message)
                .hint("plinth volume delete gives its space back"));
        };
        self.keys.open_group(envelope, &uuid(&group.id)?).map(Some)
    }

    /// Writes the names of a group and its volume to the headers of its home row again, before the catalogue changes; a
    /// repetition does it again.
    ///
    /// # Errors
    /// A drive's; of an encrypted group also those of its wrapping key, with nothing written.
    pub(super) fn write_names(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        volume: &VolumeRecord,
    ) -> Result<()> {
        if super::found::is_nameless(group, volume) {
            // Of what is called by its identity only the true size and name lie there.
            let message =
                format!("group {} was imported without its key, and its names were not read yet", group.name);
            return Err(Error::new(Kind::Refused, group.name.clone(), message)
                .hint(format!("plinth pool import {} reads them when the key can be had", group.pool)));
        }
        let secret = self.group_secret(group)?;
        let headers = self.home_headers(pool, group)?;
        let written = headers.iter().filter_map(|header| Some(Names::read(&header.block).ok()?.written()));
        let content = HeaderContent::new(group, volume, secret.as_ref(), written.max().unwrap_or(0) + 1)?;
        for mut header in headers {
            content.put(&mut header.block);
            header.write()?;
        }
        Ok(())
    }

    /// Gives a home row that was moved what the one before has. `left`: the places that were left, not wiped yet.
    ///
    /// Crash story: names of an encrypted group could be sealed anew only with its keys, and a move must come to its end
    /// without them: a passphrase may have been locked meanwhile. What is sealed is the same on every drive, so it is
    /// carried over as it is.
    pub(super) fn carry_headers(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        volume: &VolumeRecord,
        left: &[(String, u32)],
    ) -> Result<()> {
        if group.encryption.is_none() {
            return self.write_names(pool, group, volume);
        }
        let headers = self.home_headers(pool, group)?;
        let before = self.headers_at(pool, group, left)?;
        let all = || headers.iter().chain(&before).map(|header| &header.block);
        let newest = all().max_by_key(|block| Names::read(block).map_or(0, |found| found.written()));
        let Some(newest) = newest.cloned() else { return Ok(()) };
        let envelope = envelope_of(group);
        for mut header in headers {
            Names::copy_known(&newest, &mut header.block);
            if let Some(envelope) = &envelope {
                envelope.put(&mut header.block);
            }
            header.write()?;
        }
        Ok(())
    }

    /// Writes the envelope that the catalogue has to the headers of the home row that have another one. Returns the drives
    /// that count and could not be written: they may have the envelope before. A copy that is stale or was given up opens
    /// nothing that anybody wants.
    ///
    /// # Errors
    /// The catalogue's.
    pub(super) fn settle_envelope(&self, group: &GroupRecord) -> Result<Vec<String>> {
        let Some(envelope) = envelope_of(group) else { return Ok(Vec::new()) };
        let rows = self.rows_of(&group.id)?;
        let Some(home) = rows.first() else { return Ok(Vec::new()) };
        let pool = self.pool(&group.pool)?;
        let mut missing = Vec::new();
        for (id, extent) in &home.extents {
            let drive = self.drive(id)?;
            let copy = group.copies.iter().find(|copy| copy.drive == *id);
            let counts = copy.is_some_and(|copy| copy.state == CopyState::Current)
                && drive.state != DriveState::Failed;
            let renewed =
                self.open_drive(&drive).and_then(|media| match header_at(media, &pool, group, *extent)? {
                    Some(header) => header.renew(&envelope),
                    None => Ok(()),
                });
            if renewed.is_err() && counts {
                missing.push(format!("drive {} of group {}", drive.path.display(), group.name));
            }
        }
        Ok(missing)
    }

    /// As `settle_envelope`, of what is at hand by chance; what does not work is tried another time.
    pub(super) fn settle_at_hand(&self, group: &GroupRecord) {
        match self.settle_envelope(group) {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                tracing::info!("an envelope may be old on what is missing: {}", missing.join(", "))
            }
            Err(error) => tracing::warn!("the envelope of group {} was not written: {error}", group.name),
        }
    }

    /// The right headers of a group's home row, as far as its drives are at hand.
    fn home_headers(&self, pool: &PoolRecord, group: &GroupRecord) -> Result<Vec<HomeHeader>> {
        let rows = self.rows_of(&group.id)?;
        let home = rows.first().map(|row| row.extents.clone()).unwrap_or_default();
        self.headers_at(pool, group, &home)
    }

    fn headers_at(
        &self,
        pool: &PoolRecord,
        group: &GroupRecord,
        places: &[(String, u32)],
    ) -> Result<Vec<HomeHeader>> {
        let mut headers = Vec::new();
        for (id, extent) in places {
            let Ok(media) = self.open_drive(&self.drive(id)?.record) else { continue };
            headers.extend(header_at(media, pool, group, *extent)?);
        }
        Ok(headers)
    }
}

/// The header of an extent, if it is this group's.
fn header_at(
    media: Media,
    pool: &PoolRecord,
    group: &GroupRecord,
    extent: u32,
) -> Result<Option<HomeHeader>> {
    let at = extent_start(ExtentNo::new(extent), pool.extent_blocks);
    let block = media.read(at)?;
    let right = Header::decode(&block).is_ok_and(|header| header.group.to_string() == group.id);
    Ok(right.then_some(HomeHeader { media, at, block }))
}
