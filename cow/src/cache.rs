//! A cache of verified pages, in buffers that are given to it once.
//!
//! Pages are immutable and a checkpoint number is never reused within an activation, so (Pba, checkpoint,
//! check) names one content for ever: nothing is ever invalidated. When a Pba is freed and written again its
//! new Ref has another checkpoint, and the old entry is simply never asked for and dies by the clock.
//!
//! Crash story: none, the cache is only memory. What it must never do is hand out bytes that were not verified
//! against the Ref that asked, so a frame becomes visible only through `loaded` (which verifies) or `insert` (a
//! page that was sealed here). Frames being loaded are the target of reads in flight: they are never evicted.
//!
//! Replacement is CLOCK. A page enters unmarked and is marked by its first hit: a walk over many leaves passes
//! through without driving out the inner pages. A walk asks again from its root after each page that it had to
//! wait for, so the cache must hold the pages of all walks under way at once (the height of the tree, for each);
//! with fewer frames they drive each other's pages out for ever.
use crate::refs::Ref;
use alloc::vec;
use alloc::vec::Vec;
use base::{BufId, Memory};

/// End of a chain.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Loading,
    Ready,
}

#[derive(Clone, Copy)]
struct Frame {
    /// The page's Ref; meaningless when free.
    page: Ref,
    state: State,
    /// Hit since the clock's hand passed.
    marked: bool,
    /// Next frame of the same hash bucket.
    next: u32,
}

/// What `reserve` came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserve {
    /// Read the page into this frame, then call `loaded` or `abandon`.
    Frame(BufId),
    /// Another read of this page is under way: wait for it.
    Loading,
    /// The page has come in already.
    Ready(BufId),
    /// Every frame is being loaded: wait for one.
    Full,
}

/// A page that is about to be sealed, and the frame that has a copy of it.
#[must_use]
pub struct Kept(Option<usize>);

/// Verified pages by their Refs. All calls are O(1) but for the clock's hand, which passes each frame at most
/// twice; no call allocates.
pub struct PageCache {
    first: BufId,
    frames: Vec<Frame>,
    /// Heads of the chains.
    buckets: Vec<u32>,
    hand: usize,
    loading: u32,
}

impl PageCache {
    /// A cache over the buffers `first .. first + frames`.
    pub fn new(first: BufId, frames: u32) -> Self {
        assert!(frames > 0, "a cache needs a frame");
        let free = Frame { page: Ref::ABSENT, state: State::Free, marked: false, next: NIL };
        let buckets = vec![NIL; frames.next_power_of_two() as usize];
        Self { first, frames: vec![free; frames as usize], buckets, hand: 0, loading: 0 }
    }

    /// Frames in all.
    pub fn frames(&self) -> u32 {
        self.frames.len() as u32
    }

    /// Frames that wait for a read.
    pub fn loading(&self) -> u32 {
        self.loading
    }

    /// The frame of a page, without marking it as used.
    pub fn peek(&self, page: &Ref) -> Option<BufId> {
        let at = self.find(page)?;
        (self.frames[at].state == State::Ready).then(|| self.buf(at))
    }

    /// The frame that holds this page, if any; its bytes are verified and stay until the cache is next changed.
    pub fn get(&mut self, page: &Ref) -> Option<BufId> {
        let at = self.find(page)?;
        if self.frames[at].state != State::Ready {
            return None;
        }
        self.frames[at].marked = true;
        Some(self.buf(at))
    }

    /// Whether a read of this page is under way.
    pub fn is_loading(&self, page: &Ref) -> bool {
        self.find(page).is_some_and(|at| self.frames[at].state == State::Loading)
    }

    /// A frame for this page to be read into, pinned until `loaded` or `abandon`.
    pub fn reserve(&mut self, page: &Ref) -> Reserve {
        if let Some(at) = self.find(page) {
            return match self.frames[at].state {
                State::Ready => Reserve::Ready(self.buf(at)),
                _ => Reserve::Loading,
            };
        }
        let Some(at) = self.claim() else { return Reserve::Full };
        self.enter(at, page, State::Loading);
        self.loading += 1;
        Reserve::Frame(self.buf(at))
    }

    /// The read into a reserved frame has ended well. Whether the bytes are the page that was asked for, which the frame
    /// then has in plain text; if not, the frame stays reserved, so that another leg can be read into it.
    pub fn loaded(&mut self, buf: BufId, memory: &mut impl Memory) -> bool {
        let at = self.loading_frame(buf);
        let Ref { pba, check, .. } = self.frames[at].page;
        if !memory.open_page(buf, pba, self.frames[at].page.ckpt(), check) {
            return false;
        }
        self.frames[at].state = State::Ready;
        self.loading -= 1;
        true
    }

    /// The page cannot be read: gives its reserved frame back. No read into it may be in flight.
    pub fn abandon(&mut self, buf: BufId) {
        let at = self.loading_frame(buf);
        self.leave(at);
        self.loading -= 1;
    }

    /// Keeps a copy of a page that is about to be sealed, if a frame can be had: its readers come soon. Sealing may take
    /// its plain text away. Nothing else may be done with the cache before `insert`.
    pub fn keep(&mut self, memory: &mut impl Memory, from: BufId) -> Kept {
        let at = self.claim();
        if let Some(at) = at {
            memory.copy_block(from, self.buf(at));
        }
        Kept(at)
    }

    /// The page that was kept was sealed, and this Ref leads to it. One that was not sealed after all is simply dropped.
    pub fn insert(&mut self, page: &Ref, kept: Kept) {
        if let Some(at) = kept.0
            && self.find(page).is_none()
        {
            self.enter(at, page, State::Ready);
        }
    }

    fn buf(&self, at: usize) -> BufId {
        self.first.plus(at as u32)
    }

    fn loading_frame(&self, buf: BufId) -> usize {
        let at = (buf.get() - self.first.get()) as usize;
        assert!(self.frames[at].state == State::Loading, "frame {buf:?} waits for no read");
        at
    }

    fn bucket(&self, page: &Ref) -> usize {
        // Neighbouring pages differ in the low bits of the Pba; the multiplication spreads both numbers.
        let key = page.pba.get() ^ u64::from(page.tag) << 40;
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.buckets.len() - 1)
    }

    fn find(&self, page: &Ref) -> Option<usize> {
        let mut at = self.buckets[self.bucket(page)];
        while at != NIL {
            let frame = &self.frames[at as usize];
            if (frame.page.pba, frame.page.tag, frame.page.check) == (page.pba, page.tag, page.check) {
                return Some(at as usize);
            }
            at = frame.next;
        }
        None
    }

    /// A free frame, after evicting its page if need be. None if every frame is being loaded.
    fn claim(&mut self) -> Option<usize> {
        // Two passes: the first may find only marks to take away.
        for _ in 0..2 * self.frames.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.frames.len();
            match self.frames[at].state {
                State::Free => return Some(at),
                State::Ready if self.frames[at].marked => self.frames[at].marked = false,
                State::Ready => {
                    self.leave(at);
                    return Some(at);
                }
                State::Loading => {}
            }
        }
        assert!(self.loading as usize == self.frames.len(), "the clock missed a frame");
        None
    }

    fn enter(&mut self, at: usize, page: &Ref, state: State) {
        assert!(!page.is_hole() && !page.is_absent(), "{page:?} leads to no page");
        assert!(self.frames[at].state == State::Free);
        let bucket = self.bucket(page);
        self.frames[at] = Frame { page: *page, state, marked: false, next: self.buckets[bucket] };
        self.buckets[bucket] = at as u32;
    }

    fn leave(&mut self, at: usize) {
        let Frame { page, next, .. } = self.frames[at];
        let bucket = self.bucket(&page);
        if self.buckets[bucket] == at as u32 {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket] as usize;
            while self.frames[before].next != at as u32 {
                before = self.frames[before].next as usize;
            }
            self.frames[before].next = next;
        }
        self.frames[at].state = State::Free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Check, CkptNo, Pba, Seq, VecMemory};

    fn page(n: u64) -> (Ref, [u8; 4096]) {
        let bytes = [n as u8; 4096];
        (Ref::page(Pba::new(n), Seq::new(n), CkptNo::new(1), Check::of(&bytes)), bytes)
    }

    fn load(cache: &mut PageCache, memory: &mut VecMemory, n: u64) -> Ref {
        let (r, bytes) = page(n);
        let Reserve::Frame(buf) = cache.reserve(&r) else { panic!("no frame for {n}") };
        *memory.block_mut(buf) = bytes;
        assert!(cache.loaded(buf, memory));
        r
    }

    #[test]
    fn only_the_right_bytes_become_visible() {
        let mut memory = VecMemory::new(3);
        let mut cache = PageCache::new(BufId::new(1), 2);
        let (r, bytes) = page(5);
        let Reserve::Frame(buf) = cache.reserve(&r) else { panic!() };
        assert_eq!(cache.reserve(&r), Reserve::Loading);
        assert!(cache.is_loading(&r));
        assert!(!cache.loaded(buf, &mut memory), "zeroes are not the page");
        assert_eq!(cache.get(&r), None);
        *memory.block_mut(buf) = bytes;
        assert!(cache.loaded(buf, &mut memory), "another leg had it");
        assert_eq!(cache.get(&r), Some(buf));
        assert_eq!(cache.reserve(&r), Reserve::Ready(buf));
    }

    /// The Pba was freed and another checkpoint wrote a page there: the old frame must not answer.
    #[test]
    fn a_reused_block_is_another_page() {
        let mut memory = VecMemory::new(2);
        let mut cache = PageCache::new(BufId::new(0), 2);
        let r = load(&mut cache, &mut memory, 5);
        assert_eq!(cache.get(&Ref { tag: 2, ..r }), None);
        assert_eq!(cache.get(&Ref { check: Check::NONE, ..r }), None);
        assert!(cache.get(&r).is_some());
    }

    #[test]
    fn frames_being_loaded_are_never_evicted() {
        let mut memory = VecMemory::new(2);
        let mut cache = PageCache::new(BufId::new(0), 2);
        let (a, b, c) = (page(1).0, page(2).0, page(3));
        let Reserve::Frame(first) = cache.reserve(&a) else { panic!() };
        let Reserve::Frame(second) = cache.reserve(&b) else { panic!() };
        assert_eq!(cache.reserve(&c.0), Reserve::Full);
        let kept = cache.keep(&mut memory, BufId::new(0));
        cache.insert(&c.0, kept);
        assert_eq!(cache.get(&c.0), None);
        cache.abandon(second);
        assert_eq!(cache.loading(), 1);
        let Reserve::Frame(third) = cache.reserve(&c.0) else { panic!() };
        assert!(third == second && third != first);
    }

    #[test]
    fn pages_that_are_used_survive_a_scan() {
        let mut memory = VecMemory::new(8);
        let mut cache = PageCache::new(BufId::new(0), 8);
        let hot = load(&mut cache, &mut memory, 1);
        for n in 2..200 {
            assert!(cache.get(&hot).is_some(), "evicted by page {n}");
            load(&mut cache, &mut memory, n);
        }
    }

    #[test]
    fn a_sealed_page_is_copied_in() {
        let mut memory = VecMemory::new(3);
        let mut cache = PageCache::new(BufId::new(0), 2);
        let (r, bytes) = page(9);
        *memory.block_mut(BufId::new(2)) = bytes;
        let kept = cache.keep(&mut memory, BufId::new(2));
        memory.block_mut(BufId::new(2)).fill(0);
        cache.insert(&r, kept);
        let at = cache.get(&r).expect("cached");
        assert_eq!(memory.block(at), &bytes);
    }
}
