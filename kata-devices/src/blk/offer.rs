//! What a disk offers by its description, and what works it.

use std::sync::Arc;

use virtio_bindings::virtio_blk as features;

use super::config::{BlkConfig, IoEngine};
use super::disk::Disk;
use super::engine::Engine;
use super::layout::{ConfigSpace, SECTOR};
use super::request::Limits;
use super::sequential::Sequential;
use super::uring::Uring;
use crate::virtio::QUEUE_FEATURES;
use crate::{Error, Result};

pub(super) fn engine(wanted: IoEngine, disk: Arc<Disk>) -> Result<Box<dyn Engine>> {
    if wanted == IoEngine::Sequential {
        return Ok(Box::new(Sequential::new(disk)));
    }
    match Uring::new(Arc::clone(&disk)) {
        Ok(ring) => Ok(Box::new(ring)),
        Err(error) if wanted == IoEngine::Auto => {
            log::debug!(error:%; "blk: no io_uring here; reading and writing one by one");
            Ok(Box::new(Sequential::new(disk)))
        }
        Err(error) => Err(Error::host("set up io_uring")(error)),
    }
}

pub(super) fn offered(config: &BlkConfig) -> u64 {
    let mut bits = vec![
        features::VIRTIO_BLK_F_SIZE_MAX,
        features::VIRTIO_BLK_F_SEG_MAX,
        features::VIRTIO_BLK_F_BLK_SIZE,
        features::VIRTIO_BLK_F_FLUSH,
        features::VIRTIO_BLK_F_TOPOLOGY,
    ];
    if config.read_only {
        bits.push(features::VIRTIO_BLK_F_RO);
    } else {
        bits.push(features::VIRTIO_BLK_F_DISCARD);
        bits.push(features::VIRTIO_BLK_F_WRITE_ZEROES);
    }
    if config.queues > 1 {
        bits.push(features::VIRTIO_BLK_F_MQ);
    }
    bits.iter().fold(QUEUE_FEATURES, |all, bit| all | 1 << bit)
}

pub(super) fn config_space(config: &BlkConfig, limits: &Limits) -> ConfigSpace {
    let topology = config.topology;
    let exponent = (topology.physical_block / topology.logical_block).trailing_zeros();
    let sectors_per_block = u64::from(topology.physical_block) / SECTOR;
    ConfigSpace {
        capacity: limits.capacity,
        block_size: topology.logical_block,
        physical_exponent: u8::try_from(exponent).unwrap_or(0),
        alignment_offset: 0,
        min_io: 1,
        opt_io: 0,
        queues: config.queues,
        discard_alignment: u32::try_from(sectors_per_block).unwrap_or(1),
    }
}
