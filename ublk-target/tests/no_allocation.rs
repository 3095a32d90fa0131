//! After start, serving a request allocates nothing: the loop, the drives and NBD under a counting allocator.
//!
//! Only the target's thread is counted; the client's is free to allocate.
mod support;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use support::*;

static COUNT: AtomicU64 = AtomicU64::new(0);
thread_local! { static CLIENT: Cell<bool> = const { Cell::new(false) }; }

struct Counting;

// SAFETY: everything is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !CLIENT.try_with(Cell::get).unwrap_or(true) {
            COUNT.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_request_allocates_nothing() {
    CLIENT.set(true);
    let server = Server::start(64 << 20);
    let mut client = Client::structured(&server);
    let data = pattern(1 << 20, 1);
    let round = |client: &mut Client| {
        for n in 0..32u64 {
            client.request(1, (n % 2) as u16, n, n * 3 * 512, 8192);
            client.send(&data[..8192]);
            client.request(0, 0, n, n << 20, 1 << 16);
        }
        client.request(1, 0, 99, 512, 1 << 20);
        client.send(&data);
        client.request(0, 0, 99, 512, 4 << 20);
        client.request(3, 0, 99, 0, 0);
        client.request(6, 0, 99, 512, 1 << 20);
        client.request(4, 0, 99, 1 << 20, 4 << 20);
        client.request(7, 0, 99, 0, 64 << 20);
        let mut left = 70;
        while left > 0 {
            let head = client.data(4);
            if head == [0x67, 0x44, 0x66, 0x98] {
                assert_eq!(client.data(12)[..4], [0; 4]);
                left -= 1;
            } else {
                let head = client.data(16);
                left -= u32::from(head[1] & 1);
                client.data(u32::from_be_bytes(head[12..].try_into().unwrap()) as usize);
            }
        }
    };
    round(&mut client);
    let before = COUNT.load(Relaxed);
    for _ in 0..50 {
        round(&mut client);
    }
    assert_eq!(COUNT.load(Relaxed) - before, 0, "allocations in 3500 requests");
    assert!(before > 0, "the counter counts");
}
