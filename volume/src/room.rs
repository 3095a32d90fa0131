//! Room: how large a group can become by its shape, and which shape a volume of some size needs.
//!
//! What bounds a group is the table of its rows, which lies on the home pages, and the history beside it. Rows leave
//! pages to the history: a group that cannot note its next activation takes no writes any more, and that is for ever,
//! while one that has no row left is merely full.
//!
//! A group is planned so that its table fits on the home pages twice: when all extents of a drive move, the new table
//! is written beside the old one.
use crate::config::Config;
use crate::geometry::Geometry;
use crate::layout::rows::PER_PAGE;
use crate::rows::{MAX_EXTENTS, pages_from};
use base::{Pba, SECTORS_PER_BLOCK, Sectors};
use rlog::layout::LINES_PER_PAGE;

/// Home pages of a new group are planned for volumes that grow by this factor.
const GROWS_BY: u64 = 2;
/// Rows beside those for data: the home row, and the one that is asked for before space is short.
const ROWS_BESIDE: u64 = 2;

impl Geometry {
    /// The shape of a new group for a volume of this size: the default ring, and home pages as they are needed. A
    /// sixteenth of an extent, more for large volumes, and a quarter at least where the history has no end.
    pub fn for_volume(
        (legs, columns): (u8, u8),
        stripe_blocks: u32,
        extent_blocks: u32,
        size: Sectors,
        encrypted: bool,
    ) -> Self {
        let ring = Self::default_ring(columns, extent_blocks);
        let mut shape = Self::new(legs, columns, stripe_blocks, extent_blocks, ring);
        let columns = u32::from(columns.max(1));
        let share = extent_blocks / columns;
        // Of the home row some blocks stay for everything else.
        let most = (share - share / 8).saturating_sub(shape.home.first).max(shape.home.blocks);
        if encrypted {
            shape.home.blocks = shape.home.blocks.max(extent_blocks / 4 / columns).min(most);
        }
        let size = Sectors::new(size.get().saturating_mul(GROWS_BY));
        while !shape.holds(size, encrypted) && shape.home.blocks < most {
            shape.home.blocks = (shape.home.blocks * 2).min(most);
        }
        shape
    }

    /// Whether a volume of this size can be filled, and its group moved.
    pub fn holds(&self, size: Sectors, encrypted: bool) -> bool {
        self.rows_for(size, &Config::SERVED) <= u64::from(self.most_rows(encrypted))
    }

    /// The largest volume that can be filled, in a group that can be moved.
    pub fn largest_volume(&self, encrypted: bool) -> Sectors {
        let (mut fits, mut beyond) = (0u64, 1u64 << 48);
        while beyond - fits > 1 {
            let size = fits + (beyond - fits) / 2;
            if self.holds(Sectors::new(size), encrypted) { fits = size } else { beyond = size }
        }
        Sectors::new(fits)
    }

    /// Rows with which a volume of this size can be full: an eighth more than its blocks, for pages and what is kept
    /// free, and what two layers of the delta have replaced.
    pub(crate) fn rows_for(&self, size: Sectors, config: &Config) -> u64 {
        let blocks = size.get().div_ceil(SECTORS_PER_BLOCK);
        let all = blocks + blocks / 8 + 2 * u64::from(config.delta_entries);
        all.div_ceil(self.row_blocks()) + ROWS_BESIDE
    }

    /// No more rows than the home pages could name if there were nothing else on them.
    pub(crate) fn rows_named(&self) -> u64 {
        u64::from(self.home_pages()) * PER_PAGE as u64 / self.row_extents() as u64
    }

    /// Rows of which the table fits on the home pages twice, beside the history.
    fn most_rows(&self, encrypted: bool) -> u32 {
        let left = (self.home_pages() as usize).saturating_sub(self.kept_for_history(encrypted, 0));
        let fits = |rows: u64| {
            let extents = rows as usize * self.row_extents();
            rows * self.row_blocks() <= Pba::LIMIT
                && extents <= MAX_EXTENTS
                && 2 * pages_from(extents, 0) <= left
        };
        let (mut most, mut beyond) = (1, u64::from(u32::MAX));
        while beyond - most > 1 {
            let rows = most + (beyond - most) / 2;
            if fits(rows) { most = rows } else { beyond = rows }
        }
        most as u32
    }

    /// Home pages that rows leave free, where the history has so many already. The history of an encrypted group grows
    /// for ever: it has a quarter of all pages to grow into, and later always as much as it has. That of a plain group
    /// needs one page, and another one to write the next version of it.
    pub(crate) fn kept_for_history(&self, encrypted: bool, has: usize) -> usize {
        let quarter = self.home_pages() as usize / 4;
        let least = if has == 0 { 2 } else { 1 };
        if encrypted { has.max(quarter.saturating_sub(has)).max(least) } else { least }
    }

    /// Activations that so many free home pages can note, where the newest page has so many lines.
    pub(crate) fn activations_left(free: usize, lines: usize) -> u64 {
        // A page that is not full is written anew on a free one, and gives its place back: the last page of all gets one
        // line.
        let begun = if lines == 0 { 0 } else { LINES_PER_PAGE.saturating_sub(lines) };
        let last = |free: usize| begun + (free - 1) * LINES_PER_PAGE + 1;
        if free == 0 { 0 } else { last(free) as u64 }
    }
}

#[cfg(test)]
mod tests;
