use super::*;
use proptest::prelude::*;
use std::io::Write;

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn look(bytes: &[u8], accepted: &[Format]) -> Result<Format> {
    inspect_kernel(file(bytes).path(), accepted, &Known::default()).map(|kernel| kernel.format)
}

fn why(result: Result<Format>) -> String {
    match result.unwrap_err() {
        Error::File {
            what: "kernel",
            source,
            ..
        } => source.to_string(),
        other => panic!("{other:?}"),
    }
}

fn note(kind: u32, name: &[u8; 4], desc: &[u8]) -> Vec<u8> {
    let length = u32::try_from(desc.len()).unwrap();
    let mut note = Vec::new();
    for number in [4, length, kind] {
        note.extend_from_slice(&number.to_le_bytes());
    }
    note.extend_from_slice(name);
    note.extend_from_slice(desc);
    note
}

/// An ELF file with one segment of notes.
fn elf(machine: u16, notes: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[54..56].copy_from_slice(&56u16.to_le_bytes());
    elf[56..58].copy_from_slice(&1u16.to_le_bytes());
    elf[64..68].copy_from_slice(&PT_NOTE.to_le_bytes());
    elf[72..80].copy_from_slice(&120u64.to_le_bytes());
    elf[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    elf.extend_from_slice(notes);
    elf
}

fn pvh() -> Vec<u8> {
    [
        note(1, b"GNU\0", &[0; 8]),
        note(PHYS32_ENTRY, b"Xen\0", &[0; 4]),
    ]
    .concat()
}

#[test]
fn an_elf_with_a_pvh_entry_is_a_kernel() {
    assert_eq!(look(&elf(62, &pvh()), &[Format::Elf]).unwrap(), Format::Elf);
}

#[test]
fn an_elf_without_one_is_told_apart() {
    let other = note(PHYS32_ENTRY, b"GNU\0", &[0; 4]);
    assert!(why(look(&elf(62, &other), &[Format::Elf])).contains("CONFIG_PVH"));
}

#[test]
fn an_elf_of_another_architecture_is_told_apart() {
    assert!(why(look(&elf(183, &pvh()), &[Format::Elf])).contains("another architecture"));
}

#[test]
fn a_truncated_elf_is_told_apart() {
    let mut bytes = elf(62, &pvh());
    bytes.pop();
    assert_eq!(why(look(&bytes, &[Format::Elf])), "it is truncated");
}

#[test]
fn a_bzimage_is_a_kernel_only_where_it_can_be_loaded() {
    let mut bytes = vec![0; 1024];
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    assert_eq!(look(&bytes, &[Format::BzImage]).unwrap(), Format::BzImage);
    assert!(why(look(&bytes, &[Format::Arm64Image])).contains("no kernel"));
}

#[test]
fn an_arm64_image_is_a_kernel() {
    let mut bytes = vec![0; 64];
    bytes[56..60].copy_from_slice(b"ARM\x64");
    assert_eq!(
        look(&bytes, &[Format::Arm64Image]).unwrap(),
        Format::Arm64Image
    );
    assert_eq!(
        look(&[0x1f, 0x8b, 8], &[Format::Gzip]).unwrap(),
        Format::Gzip
    );
}

#[test]
fn text_an_empty_file_and_a_directory_are_no_kernels() {
    assert!(why(look(b"#!/bin/sh\n", &[Format::Elf])).contains("no kernel"));
    assert!(why(look(b"", &[Format::Elf])).contains("no kernel"));
    let dir = tempfile::tempdir().unwrap();
    assert!(
        why(
            inspect_kernel(dir.path(), &[Format::Elf], &Known::default())
                .map(|kernel| kernel.format)
        )
        .contains("regular file")
    );
}

#[test]
fn an_empty_or_absent_initramfs_is_named() {
    let error = inspect_initramfs(file(b"").path()).unwrap_err();
    assert!(matches!(
        error,
        Error::File {
            what: "initramfs",
            ..
        }
    ));
    assert!(inspect_initramfs(Path::new("/nonexistent")).is_err());
    inspect_initramfs(file(b"070701").path()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_file_makes_it_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        elf_like in any::<bool>(),
    ) {
        if elf_like && bytes.len() > 64 {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[18..20].copy_from_slice(&62u16.to_le_bytes());
            bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        }
        let _ = look(&bytes, &[Format::Elf, Format::BzImage]);
    }

    #[test]
    fn no_notes_make_it_panic(notes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = pvh_note_in(&notes);
    }
}
