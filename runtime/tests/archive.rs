//! A bundle as one file: it has one form, comes back byte for byte, and anything else is a typed error.
#![expect(clippy::unwrap_used, reason = "a failed preparation fails the test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Expected, key, sign, toy};
use margay::bundle::{BundleOptions, archive};
use margay::{Bundle, Error, ErrorKind};
use proptest::prelude::*;

/// Unpacks into a folder of its own.
fn unpack(content: &[u8]) -> Result<Bundle, Error> {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("toy.margay"), folder.path().join("out"));
    fs::write(&file, content).unwrap();
    let unpacked = archive::unpack(&file, &out, &BundleOptions::default());
    let verified = archive::verify(&file, &BundleOptions::default());
    match &unpacked {
        Ok(_) => verified.unwrap(),
        Err(error) => {
            assert_eq!(verified.unwrap_err().kind(), error.kind());
            assert!(!out.exists(), "nothing appears unless all of it is right");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        }
    }
    unpacked
}

/// The toy, signed, with a file in a folder of its own, as one file.
fn packed() -> Vec<u8> {
    let folder = toy();
    fs::create_dir(folder.path().join("notes")).unwrap();
    fs::write(folder.path().join("notes/card.md"), "A toy.").unwrap();
    common::relist(folder.path());
    sign(folder.path(), &[key(1)]);
    pack(folder.path())
}

fn pack(folder: &Path) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("toy.margay");
    archive::pack(&Bundle::open(folder).unwrap(), &file).unwrap();
    fs::read(file).unwrap()
}

#[test]
fn what_is_packed_comes_back_and_tar_reads_it() {
    let content = packed();
    assert_eq!(content, packed(), "one bundle has one archive");
    let bundle = unpack(&content).unwrap();
    assert_eq!(bundle.manifest().name, "toy");
    assert_eq!(bundle.signers(), [common::public(&key(1))]);

    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(content.as_slice()).unpack(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("notes/card.md")).unwrap(), "A toy.");
    assert_eq!(pack(folder.path()), content);
}

#[test]
fn an_archive_opens_like_a_folder_and_is_extracted_once() {
    let folder = tempfile::tempdir().unwrap();
    let (file, cache) = (folder.path().join("toy.margay"), folder.path().join("cache"));
    let content = pack(toy().path());
    fs::write(&file, &content).unwrap();
    let options = BundleOptions { cache: Some(cache.clone()), ..BundleOptions::default() };
    let open = || Bundle::open_with(&file, &options).unwrap();
    let bundle = open();
    assert_eq!(bundle.model_digest().to_string(), Expected::read().model_digest);
    common::load(&bundle);
    let written = |bundle: &Bundle| bundle.graph().metadata().unwrap().modified().unwrap();
    assert_eq!((open().root(), written(&open())), (bundle.root(), written(&bundle)));

    // What was damaged in the cache is extracted again; what is not there any more too.
    fs::write(bundle.root().join("weights.bin"), "moths").unwrap();
    assert_eq!(open().root(), bundle.root());
    fs::remove_dir_all(&cache).unwrap();
    assert_eq!(open().root(), bundle.root());
    // Nothing else stays there.
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);

    // Another signature is another bundle, and is looked at before anything is written.
    let signed = toy();
    sign(signed.path(), &[key(1)]);
    fs::write(&file, pack(signed.path())).unwrap();
    let trusted = BundleOptions { cache: Some(cache.clone()), ..BundleOptions::signed_by([common::public(&key(2))]) };
    assert_eq!(Bundle::open_with(&file, &trusted).unwrap_err().kind(), ErrorKind::Signature);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    assert_ne!(open().root(), bundle.root());
}

#[test]
fn a_folder_that_holds_something_is_not_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("toy.margay"), folder.path().join("out"));
    fs::write(&file, pack(toy().path())).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("diary.txt"), "mine").unwrap();
    let error = archive::unpack(&file, &out, &BundleOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(fs::read_to_string(out.join("diary.txt")).unwrap(), "mine");
}

/// The toy's archive as somebody else's program might write it.
fn repacked(change: impl Fn(usize, &mut tar::Header, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let content = packed();
    let mut out = tar::Builder::new(Vec::new());
    for (index, entry) in tar::Archive::new(content.as_slice()).entries().unwrap().enumerate() {
        let mut entry = entry.unwrap();
        let (mut header, mut bytes) = (entry.header().clone(), Vec::new());
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if change(index, &mut header, &mut bytes) {
            header.set_cksum();
            out.append(&header, bytes.as_slice()).unwrap();
        }
    }
    out.into_inner().unwrap()
}

/// Writes a path into a header as it stands, which the tar crate itself would refuse.
fn rename(header: &mut tar::Header, path: &str) {
    let name = &mut header.as_old_mut().name;
    name.fill(0);
    name[..path.len()].copy_from_slice(path.as_bytes());
}

#[test]
fn other_archives_are_refused_with_what_is_wrong() {
    assert_eq!(repacked(|_, _, _| true), packed(), "unchanged it is the same");
    type Change = fn(usize, &mut tar::Header, &mut Vec<u8>) -> bool;
    let changes: &[Change] = &[
        // 0 is the manifest, 1 its signatures, 2 model.onnx, 3 notes/card.md.
        |index, _, _| index != 0,
        |index, _, _| index != 1 && index != 2,
        |index, _, _| index != 5,
        |index, header, _| {
            if index == 3 {
                rename(header, "../card.md")
            };
            true
        },
        |index, header, _| {
            if index == 3 {
                rename(header, "/etc/card.md")
            };
            true
        },
        |index, header, _| {
            if index == 3 {
                rename(header, "model.onnx")
            };
            true
        },
        |index, header, _| {
            if index == 3 {
                header.set_entry_type(tar::EntryType::Symlink)
            };
            true
        },
        |index, header, _| {
            if index == 3 {
                header.set_entry_type(tar::EntryType::GNULongName)
            };
            true
        },
        |index, header, _| {
            if index == 3 {
                header.set_mode(0o777)
            };
            true
        },
        |index, header, bytes| {
            if index == 3 {
                bytes.push(b'!');
                header.set_size(7)
            };
            true
        },
        |index, header, bytes| {
            if index == 0 {
                bytes.resize(2 << 20, b' ');
                header.set_size(2 << 20)
            };
            true
        },
        |index, header, _| {
            if index == 0 {
                header.set_size(1 << 40)
            };
            true
        },
        |index, header, _| {
            if index == 1 {
                header.set_size(u64::MAX)
            };
            true
        },
    ];
    for (index, change) in changes.iter().enumerate() {
        let error = unpack(&repacked(change)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bundle, "{index}: {error}");
    }
    for content in [&b""[..], b"PK\x03\x04", &[0; 4096], &[0xff; 4096]] {
        assert_eq!(unpack(content).unwrap_err().kind(), ErrorKind::Bundle);
    }
    let mut longer = packed();
    longer.push(0);
    assert_eq!(unpack(&longer).unwrap_err().kind(), ErrorKind::Bundle);
}

#[test]
fn a_path_that_no_header_holds_is_refused_when_packing() {
    let folder = toy();
    let name = "n".repeat(150);
    fs::write(folder.path().join(&name), "long").unwrap();
    common::relist(folder.path());
    let bundle = Bundle::open(folder.path()).unwrap();
    let out = folder.path().with_extension("margay");
    assert_eq!(archive::pack(&bundle, &out).unwrap_err().kind(), ErrorKind::Bundle);
    assert!(!out.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_of_an_archive_is_noticed(at in any::<prop::sample::Index>(), mask in 1..=u8::MAX, early in any::<bool>()) {
        let mut content = packed();
        // Half of them where the headers are, before the weights.
        let at = at.index(if early { 24 << 10 } else { content.len() });
        content[at] ^= mask;
        match unpack(&content) {
            Err(error) => {
                let expected = [ErrorKind::Bundle, ErrorKind::Digest, ErrorKind::Signature];
                prop_assert!(expected.contains(&error.kind()), "{}", error);
            }
            // White space of the signature's file may be other white space.
            Ok(_) => prop_assert!(content[at].is_ascii_whitespace()),
        }
    }

    #[test]
    fn any_cut_of_an_archive_is_noticed(at in any::<prop::sample::Index>()) {
        let content = packed();
        let error = unpack(&content[..at.index(content.len())]).unwrap_err();
        prop_assert!([ErrorKind::Bundle, ErrorKind::Digest].contains(&error.kind()), "{}", error);
    }
}
