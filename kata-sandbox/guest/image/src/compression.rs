//! The compressions that distributions use for kernels and modules, undone.

use std::io::{self, Read};

/// How bytes are compressed, told from the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz container, with or without a branch filter.
    Xz,
    /// The older .lzma container.
    Lzma,
    /// RFC 8878.
    Zstd,
    /// The kernel's LZ4: the legacy frame, in blocks of 8 MiB.
    Lz4,
    /// bzip2: recognised, not undone.
    Bzip2,
    /// LZO: recognised, not undone.
    Lzo,
}

/// Why compressed bytes could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// A compression that no current distribution uses.
    #[error("compressed with {0:?}, which is not supported; decompress it first")]
    Unsupported(Compression),
    /// The bytes are damaged or cut short.
    #[error("damaged {compression:?} data")]
    Damaged {
        /// What they claim to be.
        compression: Compression,
        /// What the decoder found.
        source: io::Error,
    },
    /// More comes out than anything here should hold.
    #[error("{compression:?} data decompresses to more than {limit} bytes")]
    TooLarge {
        /// The compression.
        compression: Compression,
        /// The most that was allowed.
        limit: usize,
    },
}

/// Memory for an xz or lzma dictionary, in KiB: `xz -9` needs 64 MiB.
const DICTIONARY_LIMIT_KIB: u32 = 256 * 1024;
/// Size of a block of the legacy LZ4 frame, decompressed.
const LZ4_BLOCK: usize = 8 << 20;

impl Compression {
    /// Recognises compressed bytes by how they begin.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Compression); 7] = [
            (&[0x1f, 0x8b, 8], Compression::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
            (b"BZh", Compression::Bzip2),
            (&[0x89, b'L', b'Z', b'O', 0], Compression::Lzo),
            (&[0x5d, 0, 0], Compression::Lzma),
        ];
        MAGIC
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|&(_, kind)| kind)
    }

    /// Decompresses `bytes`, which may have other bytes after their end, to at
    /// most `limit` bytes.
    ///
    /// # Errors
    /// [`CompressionError`]: unsupported, damaged or too large.
    pub fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let damaged = |source| CompressionError::Damaged {
            compression: self,
            source,
        };
        let output = match self {
            Self::Gzip => read_all(flate2::bufread::GzDecoder::new(bytes), limit),
            Self::Xz => {
                let reader =
                    lzma_rust2::XzReader::new_mem_limit(bytes, false, DICTIONARY_LIMIT_KIB);
                read_all(reader, limit)
            }
            Self::Lzma => {
                let reader =
                    lzma_rust2::LzmaReader::new_mem_limit(bytes, DICTIONARY_LIMIT_KIB, None);
                reader.and_then(|reader| read_all(reader, limit))
            }
            Self::Zstd => ruzstd::decoding::StreamingDecoder::new(bytes)
                .map_err(io::Error::other)
                .and_then(|reader| read_all(reader, limit)),
            Self::Lz4 => read_lz4(bytes, limit),
            Self::Bzip2 | Self::Lzo => return Err(CompressionError::Unsupported(self)),
        };
        output.map_err(damaged)?.ok_or(CompressionError::TooLarge {
            compression: self,
            limit,
        })
    }
}

/// `None` when there is more than `limit`.
fn read_all(reader: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut output = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut output)?;
    Ok((output.len() <= limit).then_some(output))
}

/// Blocks, each after its size, until a size that cannot be one: in a kernel
/// the last four bytes are the decompressed size of the whole.
fn read_lz4(bytes: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut output = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    let mut rest = bytes.get(4..).unwrap_or_default();
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let Some((compressed, after)) = after.split_at_checked(size) else {
            break;
        };
        if size == 0 {
            break;
        }
        let count =
            lz4_flex::block::decompress_into(compressed, &mut block).map_err(io::Error::other)?;
        if output.len() + count > limit {
            return Ok(None);
        }
        output.extend_from_slice(&block[..count]);
        rest = after;
    }
    if output.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(Some(output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    const ALL: [Compression; 7] = [
        Compression::Gzip,
        Compression::Xz,
        Compression::Lzma,
        Compression::Zstd,
        Compression::Lz4,
        Compression::Bzip2,
        Compression::Lzo,
    ];

    fn text() -> Vec<u8> {
        (0..200_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect()
    }

    /// The tool's output, or `None` where it is not installed.
    fn compress_with(command: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| eprintln!("skipped: {}: {error}", command[0]))
            .ok()?;
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        Some(output.stdout)
    }

    #[test]
    fn what_the_kernels_own_build_compresses_is_read_back() {
        let text = text();
        for (command, kind) in [
            (&["gzip", "-n", "-9"][..], Compression::Gzip),
            (
                &["xz", "--check=crc32", "--x86", "--lzma2=,dict=32MiB"],
                Compression::Xz,
            ),
            (&["xz", "--format=lzma", "-9"], Compression::Lzma),
            (&["zstd", "-22", "--ultra"], Compression::Zstd),
            (&["lz4", "-l", "-9"], Compression::Lz4),
        ] {
            let Some(mut packed) = compress_with(command, &text) else {
                continue;
            };
            packed.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
            assert_eq!(Compression::of(&packed), Some(kind));
            let unpacked = kind.decompress(&packed, text.len()).unwrap();
            assert!(unpacked == text, "{kind:?}");
            let error = kind.decompress(&packed, text.len() - 1).unwrap_err();
            assert!(
                matches!(error, CompressionError::TooLarge { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn data_that_is_cut_short_is_damaged() {
        let mut packed = Vec::new();
        flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast())
            .write_all(&text())
            .unwrap();
        let error = Compression::Gzip
            .decompress(&packed[..packed.len() / 2], 1 << 20)
            .unwrap_err();
        assert!(matches!(error, CompressionError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_compression_that_is_not_supported_says_so() {
        let error = Compression::Lzo.decompress(&[], 10).unwrap_err();
        assert!(error.to_string().contains("Lzo"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_a_decoder_panic(kind in 0..ALL.len(), tail: Vec<u8>) {
            let kind = ALL[kind];
            let heads: [&[u8]; 7] = [
                &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
                &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1],
                &[0x5d, 0, 0, 1, 0],
                &[0x28, 0xb5, 0x2f, 0xfd],
                &[0x02, 0x21, 0x4c, 0x18],
                b"BZh",
                &[0x89, b'L', b'Z', b'O', 0],
            ];
            let head = heads[ALL.iter().position(|other| *other == kind).unwrap_or(0)];
            let bytes = [head, &tail].concat();
            drop(kind.decompress(&bytes, 1 << 16));
        }
    }
}
