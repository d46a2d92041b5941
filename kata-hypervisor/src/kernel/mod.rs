//! Whether a file can be booted as a kernel.
//!
//! A monitor given a file that is no kernel dies with a riddle or runs it. So the
//! header is read first: enough to tell a wrong or truncated file from a
//! kernel. The file is trusted no further than its bounds.

mod mmio;
mod words;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) use mmio::Known;
pub(crate) use words::Words;

use crate::error::{Error, Result};

/// What is known of a kernel that can be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelTraits {
    /// What it is.
    pub(crate) format: Format,
    /// Whether it finds virtio devices that its command line announces.
    pub(crate) finds_announced_devices: bool,
}

/// What backends can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// An uncompressed ELF, entered through its PVH note.
    Elf,
    /// An uncompressed ELF without one, entered in 64-bit mode.
    PlainElf,
    /// The x86 boot protocol's self-extracting image.
    BzImage,
    /// The arm64 boot protocol's image.
    Arm64Image,
    /// The same, compressed with gzip, which QEMU unpacks.
    Gzip,
}

/// Looks at the kernel; `accepted` is what this architecture's machines load.
pub(crate) fn inspect_kernel(
    path: &Path,
    accepted: &[Format],
    known: &Known,
) -> Result<KernelTraits> {
    let failed = |source| Error::File {
        what: "kernel",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let length = regular_length(&file).map_err(failed)?;
    let format = detect(&file)
        .map_err(failed)?
        .filter(|format| accepted.contains(format));
    let Some(mut format) = format else {
        return Err(failed(invalid(
            "it is no kernel for this architecture (an ELF vmlinux, bzImage or Image is wanted)",
        )));
    };
    if format == Format::Elf && !check_elf(&file, length).map_err(failed)? {
        if !accepted.contains(&Format::PlainElf) {
            return Err(failed(invalid(
                "it is an ELF kernel without a PVH entry (CONFIG_PVH)",
            )));
        }
        format = Format::PlainElf;
    }
    let finds_announced_devices = known
        .finds_announced_devices(&file, format)
        .map_err(failed)?;
    Ok(KernelTraits {
        format,
        finds_announced_devices,
    })
}

/// Checks that an initramfs is there, can be read and is not empty.
pub(crate) fn inspect_initramfs(path: &Path) -> Result<()> {
    let failed = |source| Error::File {
        what: "initramfs",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if regular_length(&file).map_err(failed)? == 0 {
        return Err(failed(invalid("it is empty")));
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn regular_length(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    Ok(metadata.len())
}

fn detect(file: &File) -> io::Result<Option<Format>> {
    let starts = |offset, magic: &[u8]| has(file, offset, magic);
    Ok(if starts(0, b"\x7fELF")? {
        Some(Format::Elf)
    } else if starts(0x202, b"HdrS")? && starts(0x1fe, &[0x55, 0xaa])? {
        Some(Format::BzImage)
    } else if starts(56, b"ARM\x64")? {
        Some(Format::Arm64Image)
    } else if starts(0, &[0x1f, 0x8b])? {
        Some(Format::Gzip)
    } else {
        None
    })
}

fn has(file: &File, offset: u64, magic: &[u8]) -> io::Result<bool> {
    let mut bytes = [0; 4];
    let bytes = &mut bytes[..magic.len()];
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(bytes == magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// ELF program header types.
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` of the PVH boot protocol.
const PHYS32_ENTRY: u32 = 18;
/// More than any kernel has.
const MOST_HEADERS: u16 = 64;
/// Longer than any kernel's notes.
const LONGEST_NOTES: u64 = 64 << 10;

/// A 64-bit little-endian x86_64 executable, whole. Tells whether it has a PVH
/// entry.
fn check_elf(file: &File, length: u64) -> io::Result<bool> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)
        .map_err(|_| invalid("it is truncated"))?;
    if header[4] != 2 || header[5] != 1 || u16_at(&header, 18) != 62 {
        return Err(invalid("it is an ELF file of another architecture"));
    }
    let (table, size, count) = (
        u64_at(&header, 32),
        u16_at(&header, 54),
        u16_at(&header, 56),
    );
    if size != 56 || count == 0 || count > MOST_HEADERS {
        return Err(invalid("it is an ELF file without a table of segments"));
    }
    let mut entry = false;
    for index in 0..u64::from(count) {
        let mut segment = [0; 56];
        let at = table
            .checked_add(index * 56)
            .ok_or_else(|| invalid("it is corrupt"))?;
        file.read_exact_at(&mut segment, at)
            .map_err(|_| invalid("it is truncated"))?;
        let (offset, bytes) = (u64_at(&segment, 8), u64_at(&segment, 32));
        let end = offset
            .checked_add(bytes)
            .ok_or_else(|| invalid("it is corrupt"))?;
        match u32_at(&segment, 0) {
            PT_LOAD | PT_NOTE if end > length => return Err(invalid("it is truncated")),
            PT_NOTE => entry |= has_pvh_note(file, offset, bytes)?,
            _ => {}
        }
    }
    Ok(entry)
}

/// Whether the notes name an entry point for PVH.
fn has_pvh_note(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    let length = usize::try_from(length.min(LONGEST_NOTES)).unwrap_or(0);
    let mut notes = vec![0; length];
    file.read_exact_at(&mut notes, offset)?;
    Ok(pvh_note_in(&notes))
}

fn pvh_note_in(mut notes: &[u8]) -> bool {
    while notes.len() >= 12 {
        let (name, desc) = (padded(u32_at(notes, 0)), padded(u32_at(notes, 4)));
        if u32_at(notes, 8) == PHYS32_ENTRY && notes[12..].starts_with(b"Xen\0") {
            return true;
        }
        let Some(rest) = notes.get(12usize.saturating_add(name).saturating_add(desc)..) else {
            return false;
        };
        notes = rest;
    }
    false
}

/// A length rounded up to the notes' alignment.
fn padded(length: u32) -> usize {
    usize::try_from(length)
        .unwrap_or(usize::MAX)
        .saturating_add(3)
        & !3
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// Bytes of a header whose length the callers have checked.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|slice| slice.try_into().ok())
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
