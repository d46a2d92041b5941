//! A cpio archive ("newc") of one program.

/// What a kernel wants to find: a console for the first process, and it.
pub(super) fn pack(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(init.len() + 1024);
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, "init", 0o100_755, (0, 0), init);
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let (size, name_size) = (data.len(), name.len() + 1);
    let (major, minor) = device;
    // inode, mode, uid, gid, links, mtime, size, device, device of the node, name's size, check
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
        archive.len(),
        0,
        0,
        1,
        0,
        0,
        0,
        0
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_on_a_word_and_the_last_is_the_trailer() {
        let archive = pack(b"#!");
        let starts: Vec<usize> = (0..archive.len() - 5)
            .filter(|&at| &archive[at..at + 6] == b"070701")
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0));
        assert!(archive[starts[3] + 110..].starts_with(b"TRAILER!!!\0"));
    }
}
