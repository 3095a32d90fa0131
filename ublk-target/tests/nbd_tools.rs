//! The NBD tools that people use, against the server: qemu-io, qemu-img, nbdinfo, nbdcopy and fio's nbd engine.
//! They come with `cargo xtask setup` (qemu-utils, libnbd-bin, fio).
mod support;
use std::process::Command;
use support::*;

const MIB: u64 = 1 << 20;

/// Runs a tool, which must succeed within a minute; returns what it printed.
fn run(tool: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("60").arg(tool).args(args);
    let output = command.output().expect("timeout(1) is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?} (is it installed?): {text}{errors}");
    text
}

#[test]
fn nbdinfo_sees_what_is_served() {
    let server = Server::start(96 * MIB);
    let text = run("nbdinfo", &[&server.uri()]);
    for line in [
        "export-size: 100663296",
        "base:allocation",
        "can_multi_conn: true",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "is_read_only: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    run("nbdinfo", &["--list", &server.uri()]);
}

#[test]
fn nbdcopy_copies_in_and_out() {
    let server = Server::start(96 * MIB);
    let (source, back) = (server.folder.join("source"), server.folder.join("back"));
    let mut data = pattern(96 << 20, 5);
    data[20 << 20..40 << 20].fill(0);
    std::fs::write(&source, &data).unwrap();
    run("nbdcopy", &[source.to_str().unwrap(), &server.uri()]);
    run("nbdcopy", &["--connections=4", &server.uri(), back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == data);
    let map = run("nbdinfo", &["--map", &server.uri()]);
    assert!(map.contains("data"), "{map}");
}

#[test]
fn qemu_io_verifies_patterns() {
    let server = Server::start(96 * MIB);
    let uri = server.uri();
    let script = [
        "write -P 5 0 1M",
        "read -P 5 0 1M",
        "write -P 6 512 1024",
        "read -P 6 512 1024",
        "read -P 5 0 512",
        "write -z 1M 3M",
        "read -P 0 1M 3M",
        "flush",
        "discard 8M 16M",
        "read -P 0 8M 16M",
        "write -f -P 7 50M 32M",
        "read -P 7 50M 32M",
        "aio_write -P 8 1M 64k",
        "aio_flush",
        "read -P 8 1M 64k",
    ];
    let mut args = vec!["-f", "raw", &uri];
    args.extend(script.iter().flat_map(|line| ["-c", line]));
    let text = run("qemu-io", &args);
    assert!(!text.contains("failed"), "{text}");
}

#[test]
fn qemu_img_converts_and_compares() {
    let server = Server::start(32 * MIB);
    let (source, uri) = (server.folder.join("source"), server.uri());
    std::fs::write(&source, pattern(32 << 20, 6)).unwrap();
    let source = source.to_str().unwrap();
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", source, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]);
}

#[test]
fn fio_verifies_through_its_nbd_engine() {
    let server = Server::start(64 * MIB);
    let uri = format!("--uri={}", server.uri());
    for (rw, sizes) in
        [("randwrite", "--bsrange=512-64k"), ("write", "--bs=256k"), ("randtrimwrite", "--bs=4k")]
    {
        let rw = format!("--rw={rw}");
        let fixed = ["--name=verify", "--ioengine=nbd", "--iodepth=32", "--size=16m", "--blockalign=512"];
        let mut args: Vec<&str> = fixed.to_vec();
        args.extend([uri.as_str(), &rw, sizes, "--verify=crc32c", "--verify_fatal=1", "--fsync=64"]);
        let text = run("fio", &args);
        assert!(text.contains("err= 0"), "{text}");
    }
}
