//! The NBD server against a client made of plain bytes: every option, command and refusal, split and malformed
//! input, clients that stop in the middle.
mod support;
use std::io::Write;
use support::*;

const MIB: u64 = 1 << 20;

#[test]
fn options_are_answered_one_by_one() {
    let server = Server::start(64 * MIB);
    let mut client = Client::greeted(&server);
    client.option(99, b"whatever");
    assert_eq!(client.option_reply(), (99, (1 << 31) + 1, vec![]), "unknown options are unsupported");
    client.option(OPT_LIST, &[]);
    assert_eq!(client.option_reply(), (OPT_LIST, 2, vec![0; 4]));
    assert_eq!(client.option_reply().1, REP_ACK);
    client.option(OPT_INFO, &[0, 0, 0, 1, b'x', 0, 0]);
    assert_eq!(client.option_reply().1, (1 << 31) + 6, "there is one export, of the empty name");
    client.option(OPT_INFO, &[0, 0, 9]);
    assert_eq!(client.option_reply().1, (1 << 31) + 3, "malformed");
    client.option(OPT_SET_CONTEXT, &[0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(client.option_reply().1, (1 << 31) + 3, "structured replies come first");
    client.option(OPT_INFO, &[0; 6]);
    let (_, kind, export) = client.option_reply();
    assert_eq!((kind, export[2..10].to_vec()), (3, (64 * MIB).to_be_bytes().to_vec()));
    let (_, kind, sizes) = client.option_reply();
    assert_eq!((kind, &sizes[..]), (3, &[0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0][..]));
    assert_eq!(client.option_reply().1, REP_ACK);
    client.option(OPT_ABORT, &[]);
    assert_eq!(client.option_reply().1, REP_ACK);
    assert!(client.hung_up());
}

#[test]
fn the_oldest_way_in_still_works() {
    let server = Server::start(MIB);
    let mut client = Client(server.connect());
    client.data(18);
    client.send(&1u32.to_be_bytes());
    client.option(OPT_EXPORT_NAME, &[]);
    let answer = client.data(134);
    assert_eq!(answer[..8], MIB.to_be_bytes());
    assert!(answer[10..].iter().all(|b| *b == 0));
    assert_eq!(client.write(4096, &pattern(4096, 1)), 0);
}

#[test]
fn simple_reads_and_writes_of_all_sizes_and_places() {
    let server = Server::start(40 * MIB);
    let mut client = Client::simple(&server);
    let mut image = vec![0u8; 40 << 20];
    let cases =
        [(0, 512), (512, 512), (4096, 4096), (1536, 8192), (300 * 512, 700 * 512), (7 * 512, 8 << 20)];
    for (n, (offset, len)) in cases.into_iter().chain([(512, 32 << 20)]).enumerate() {
        let data = pattern(len, n as u64);
        assert_eq!(client.write(offset as u64, &data), 0);
        image[offset..offset + len].copy_from_slice(&data);
        for (offset, len) in [(offset, len), (offset.saturating_sub(512), len + 512)] {
            let len = len.min(32 << 20);
            client.request(0, 0, 5, offset as u64, len as u32);
            assert_eq!(client.reply(), (0, 5));
            assert!(client.data(len) == image[offset..offset + len], "read {len} at {offset}");
        }
    }
    drop(client);
    let image_path = server.image.clone();
    let folder = server.stop();
    assert!(std::fs::read(image_path).expect("the image") == image);
    drop(folder);
}

#[test]
fn structured_reads_come_in_chunks_that_cover_the_request() {
    let server = Server::start(40 * MIB);
    let mut client = Client::structured(&server);
    let data = pattern(33 << 20, 3);
    for (n, part) in data.chunks(11 << 20).enumerate() {
        assert_eq!(client.write((n * (11 << 20)) as u64, part), 0);
    }
    for (offset, len) in [(0usize, 512usize), (512, 32 << 20), (1 << 20, 256 << 10), (3 * 512, 256 << 10)] {
        client.request(0, 0, 9, offset as u64, len as u32);
        let mut got = vec![0u8; len];
        let mut covered = 0;
        loop {
            let (flags, kind, cookie, payload) = client.chunk();
            assert_eq!(cookie, 9);
            if kind == 1 {
                let at = u64::from_be_bytes(payload[..8].try_into().unwrap()) as usize - offset;
                got[at..at + payload.len() - 8].copy_from_slice(&payload[8..]);
                covered += payload.len() - 8;
            } else {
                assert_eq!((kind, payload.len()), (0, 0), "data or the end");
            }
            if flags & 1 != 0 {
                break;
            }
        }
        assert_eq!(covered, len);
        assert!(got == data[offset..offset + len]);
    }
}

#[test]
fn requests_in_flight_are_answered_by_their_cookies() {
    let server = Server::start(16 * MIB);
    let mut client = Client::simple(&server);
    for n in 0..100u64 {
        client.request(1, (n % 2) as u16, n, n * 8192, 4096);
        client.send(&[n as u8; 4096]);
    }
    let mut seen: Vec<u64> = (0..100)
        .map(|_| client.reply())
        .map(|(error, cookie)| {
            assert_eq!(error, 0);
            cookie
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    for n in 0..100u64 {
        client.request(0, 0, n, n * 8192, 4096);
    }
    for _ in 0..100 {
        let (error, cookie) = client.reply();
        assert_eq!(error, 0);
        assert!(client.data(4096) == [cookie as u8; 4096]);
    }
}

#[test]
fn flush_trim_zeroes_and_block_status() {
    let server = Server::start(64 * MIB);
    let mut client = Client::structured(&server);
    assert_eq!(client.write(0, &pattern(4 << 20, 4)), 0);
    client.request(6, 2 | 16 | 1, 1, 512, (1 << 20) as u32);
    assert_eq!(client.reply(), (0, 1));
    client.request(4, 1, 2, 8 * MIB, (16 * MIB) as u32);
    assert_eq!(client.reply(), (0, 2));
    client.request(3, 0, 3, 0, 0);
    assert_eq!(client.reply(), (0, 3));
    client.request(7, 0, 4, 0, (64 * MIB) as u32);
    let (flags, kind, cookie, payload) = client.chunk();
    assert_eq!((flags, kind, cookie), (1, 5, 4));
    let words: Vec<u32> = payload.chunks(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect();
    let (m, hole) = (MIB as u32, 3);
    let zeroes = m - 4096;
    assert_eq!(words, [1, 4096, 0, zeroes, hole, 7 * m, 0, 16 * m, hole, 40 * m, 0]);
    client.request(7, 8, 5, 0, (64 * MIB) as u32);
    assert_eq!(client.chunk().3, [0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0], "one extent when one is asked for");
    client.request(0, 0, 6, 0, 8192);
    let data = client.chunk().3;
    assert!(data[8..520] == pattern(4 << 20, 4)[..512] && data[520..].iter().all(|b| *b == 0));
}

#[test]
fn what_cannot_be_done_is_refused_and_the_connection_goes_on() {
    let server = Server::start(MIB);
    let mut client = Client::simple(&server);
    let (read, write, trim) = (0, 1, 4);
    for (command, flags, offset, len, error) in [
        (read, 0, MIB, 512, 22),
        (read, 0, u64::MAX - 511, 512, 22),
        (read, 0, 100, 512, 22),
        (read, 0, 0, 100, 22),
        (read, 4, 0, 512, 22),
        (read, 0, 0, (32 << 20) + 512, 22),
        (trim, 0, 0, 2 << 20, 28),
        (7, 0, 0, 512, 22),
        (3, 0, 512, 0, 22),
        (55, 0, 0, 0, 95),
    ] {
        client.request(command, flags, 8, offset, len);
        assert_eq!(client.reply(), (error, 8), "command {command} at {offset} of {len}");
    }
    assert_eq!(client.write(MIB - 512, &[1; 1024]), 28, "its payload is swallowed");
    client.request(write, 0, 9, 1, 512);
    client.send(&[1; 512]);
    assert_eq!(client.reply(), (22, 9));
    assert_eq!(client.write(0, &[1; 512]), 0);
    client.request(read, 0, 10, 0, 0);
    assert_eq!(client.reply(), (0, 10), "nothing is asked, nothing fails");
}

#[test]
fn a_structured_client_gets_structured_errors_for_reads() {
    let server = Server::start(MIB);
    let mut client = Client::structured(&server);
    client.request(0, 0, 1, MIB, 512);
    assert_eq!(client.chunk(), (1, (1 << 15) + 1, 1, vec![0, 0, 0, 22, 0, 0]));
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let server = Server::with(MIB, true);
    let mut client = Client::simple(&server);
    assert_eq!(client.write(0, &[1; 512]), 1);
    client.request(4, 0, 2, 0, 512);
    assert_eq!(client.reply(), (1, 2));
}

#[test]
fn a_drive_that_fails_is_an_error_and_no_end() {
    let server = Server::start(8 * MIB);
    std::fs::OpenOptions::new().write(true).open(&server.image).unwrap().set_len(4 * MIB).unwrap();
    let mut client = Client::simple(&server);
    client.request(0, 0, 1, 3 * MIB, (2 * MIB) as u32);
    assert_eq!(client.reply(), (5, 1), "beyond the new end of the file nothing can be read");
    client.request(0, 0, 2, 6 * MIB, 4096);
    assert_eq!(client.reply(), (5, 2));
    client.request(0, 0, 3, 0, 4096);
    assert_eq!(client.reply(), (0, 3));
    assert!(client.data(4096).iter().all(|b| *b == 0));
    assert!(server.handle.figures().drives[0].read_errors.get() >= 2);
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let server = Server::start(MIB);
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64]] {
        let mut client = Client(server.connect());
        client.data(18);
        client.send(nonsense);
        assert!(client.hung_up());
    }
    let mut client = Client::greeted(&server);
    client.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    assert!(client.hung_up(), "an option of 4 GiB");
    let mut client = Client::simple(&server);
    client.send(&[
        0x25, 0x60, 0x95, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    assert!(client.hung_up(), "a wrong magic");
    let mut client = Client::simple(&server);
    client.request(1, 0, 1, 0, u32::MAX);
    assert!(client.hung_up(), "a write of 4 GiB");
    assert_eq!(Client::simple(&server).write(0, &[1; 512]), 0);
}

#[test]
fn bytes_one_by_one_are_understood() {
    let server = Server::start(MIB);
    let mut client = Client(server.connect());
    client.data(18);
    let mut words = 3u32.to_be_bytes().to_vec();
    words.extend_from_slice(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    words.extend_from_slice(&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
    words.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0]);
    words.extend_from_slice(&pattern(1024, 8));
    for byte in words {
        client.send(&[byte]);
    }
    while client.option_reply().1 != REP_ACK {}
    assert_eq!(client.reply(), (0, 9));
    client.request(0, 0, 10, 512, 1024);
    assert_eq!(client.reply(), (0, 10));
    assert!(client.data(1024) == pattern(1024, 8));
}

/// Clients that send half a write, and clients that ask for much and read nothing, hold up themselves alone.
#[test]
fn slow_clients_starve_nobody() {
    let server = Server::start(64 * MIB);
    let mut stuck = Vec::new();
    for n in 0..12u64 {
        let mut client = Client::simple(&server);
        client.request(1, 0, 1, n * MIB, (1 << 20) as u32);
        client.send(&[3; 300_000]);
        stuck.push(client);
        let mut client = Client::structured(&server);
        for cookie in 0..60 {
            client.request(0, 0, cookie, 0, (4 << 20) as u32);
        }
        stuck.push(client);
    }
    let mut client = Client::structured(&server);
    for n in 0..50u64 {
        assert_eq!(client.write(n * 8192, &[n as u8; 8192]), 0);
    }
    // The last reader gets everything it asked for, late.
    let mut late = stuck.pop().unwrap();
    let mut ends = 0;
    while ends < 60 {
        ends += u32::from(late.chunk().0 & 1);
    }
    assert_eq!(server.handle.figures().stuck_requests.get(), 0);
}

#[test]
fn a_client_that_vanishes_leaves_its_place() {
    let server = Server::start(16 * MIB);
    for n in 0..200u32 {
        let mut client = Client::simple(&server);
        client.request(1, 0, 1, 0, 1 << 20);
        if n % 3 > 0 {
            client.send(&vec![5; 1000 * n as usize]);
        }
        if n % 3 > 1 {
            client.request(0, 0, 1, 0, 8 << 20);
        }
    }
    let mut client = Client::simple(&server);
    assert_eq!(client.write(0, &[1; 4096]), 0);
}

/// Whole conversations with bytes changed, cut, doubled or left out, sent in pieces of any size: the server may
/// hang up or answer with errors, and serves the next client.
#[test]
fn mangled_conversations_do_no_harm() {
    let server = Server::start(MIB);
    let mut good = b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0".to_vec();
    good.extend_from_slice(b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
    good.extend_from_slice(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    for (command, len) in
        [(1u16, 1024u32), (0, 4096), (3, 0), (6, 8192), (7, 1 << 20), (4, 512), (0, 1 << 20)]
    {
        good.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        good.extend_from_slice(&[0, 0]);
        good.extend_from_slice(&command.to_be_bytes());
        good.extend_from_slice(&[7; 8]);
        good.extend_from_slice(&[0; 8]);
        good.extend_from_slice(&len.to_be_bytes());
        if command == 1 {
            good.extend_from_slice(&[9; 1024]);
        }
    }
    for seed in 1..400u64 {
        let dice = pattern(64, seed);
        let pick = |n: usize, below: usize| (usize::from(dice[n]) << 8 | usize::from(dice[n + 1])) % below;
        let mut words = good.clone();
        for n in 0..seed as usize % 4 {
            let at = pick(8 * n, words.len());
            match dice[8 * n + 2] % 4 {
                0 => words[at] ^= 1 << (dice[8 * n + 3] % 8),
                1 => words[at] = dice[8 * n + 3],
                2 => words.truncate(at),
                _ => drop(words.drain(at..(at + pick(8 * n + 4, 40)).min(words.len()))),
            }
            if words.is_empty() {
                break;
            }
        }
        let mut stream = server.connect();
        for part in words.chunks(1 + pick(60, 700)) {
            if stream.write_all(part).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert!(Client(stream).hung_up(), "seed {seed}: what was said is over");
    }
    let mut client = Client::structured(&server);
    assert_eq!(client.write(0, &[1; 4096]), 0);
}

/// Each of several connections sees what another wrote as soon as that was acknowledged.
#[test]
fn connections_see_one_another() {
    let server = Server::start(MIB);
    let (mut one, mut other) = (Client::simple(&server), Client::simple(&server));
    for n in 1..50u8 {
        assert_eq!(one.write(0, &[n; 4096]), 0);
        other.request(0, 0, 1, 0, 4096);
        assert_eq!(other.reply(), (0, 1));
        assert!(other.data(4096) == [n; 4096]);
    }
}

#[test]
fn stopping_answers_what_is_under_way() {
    let server = Server::start(16 * MIB);
    let mut client = Client::simple(&server);
    for n in 0..64u64 {
        client.request(1, 1, n, n * 4096, 4096);
        client.send(&[7; 4096]);
    }
    client.0.flush().unwrap();
    assert_eq!(client.reply().0, 0, "the first is through, so all have arrived or will be cut");
    let image = server.image.clone();
    let folder = server.stop();
    let mut answered = 1;
    let mut head = [0; 16];
    while std::io::Read::read_exact(&mut client.0, &mut head).is_ok() {
        assert_eq!(head[4..8], [0; 4], "what is answered was done");
        answered += 1;
    }
    let written = std::fs::read(image).unwrap().chunks(4096).filter(|block| block[0] == 7).count();
    assert!(written >= answered, "{written} blocks are there of {answered} acknowledged");
    drop(folder);
}
