//! The least guest there is: it writes one byte to the serial port and resets
//! its machine. Its instructions mean the same in 32-bit and 64-bit mode, so that
//! every monitor can run it, by PVH or by the address of its entry.

use std::path::{Path, PathBuf};

/// Where it is loaded.
const ENTRY: u64 = 0x10_0000;
/// What it writes.
pub(super) const BYTE: u8 = b'!';

/// mov dx, 0x3f8; mov al, '!'; out dx, al
const SPEAK: [u8; 7] = [0x66, 0xba, 0xf8, 0x03, 0xb0, BYTE, 0xee];
/// mov al, 0xfe; out 0x64, al
const RESET: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];
/// again: cli; hlt; jmp again
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];
/// An ELF note of owner "Xen" and kind 18: the 32-bit entry of PVH.
const NOTE_KIND: u32 = 18;
const HEADER: u64 = 64;
const SEGMENT: u64 = 56;

/// Writes it into `directory`.
pub(super) fn write(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("first-byte");
    std::fs::write(&path, elf(&[&SPEAK[..], &RESET, &HALT].concat()))?;
    Ok(path)
}

/// Writes one that does not end its machine.
pub(super) fn write_halting(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("halting");
    std::fs::write(&path, elf(&[&SPEAK[..], &HALT].concat()))?;
    Ok(path)
}

/// An executable with two segments: the program, and the note.
fn elf(program: &[u8]) -> Vec<u8> {
    let note = note();
    let note_at = HEADER + 2 * SEGMENT;
    let program_at = note_at + note.len() as u64;
    let mut file = header();
    // PT_NOTE and PT_LOAD.
    file.extend(segment(4, note_at, 0, note.len() as u64));
    file.extend(segment(1, program_at, ENTRY, program.len() as u64));
    file.extend(note);
    file.extend(program);
    file
}

fn note() -> Vec<u8> {
    let entry = ENTRY.to_le_bytes();
    let mut note = Vec::new();
    for word in [4, 8, NOTE_KIND] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(entry);
    note
}

/// An executable for x86_64 whose two program headers follow.
fn header() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    for half in [2, 62] {
        header.extend(u16::to_le_bytes(half));
    }
    header.extend(1_u32.to_le_bytes());
    for word in [ENTRY, HEADER, 0] {
        header.extend(word.to_le_bytes());
    }
    header.extend(0_u32.to_le_bytes());
    for half in [64, 56, 2, 64, 0, 0] {
        header.extend(u16::to_le_bytes(half));
    }
    header
}

fn segment(kind: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    const READ_AND_EXECUTE: u32 = 5;
    let mut segment = kind.to_le_bytes().to_vec();
    segment.extend(READ_AND_EXECUTE.to_le_bytes());
    for word in [offset, address, address, size, size, 4] {
        segment.extend(word.to_le_bytes());
    }
    segment
}
