//! Network cards served by the host's kernel (`/dev/vhost-net`).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_net;
use virtio_queue::QueueT;
use vm_memory::{GuestMemory as _, GuestMemoryRegion};

use super::device::Offloaded;
use super::eventfd::duplicate;
use super::link::Link;
use super::user::call_of;
use crate::net::{MacAddress, Tap, TapQueue};
use crate::virtio::{DeviceEvents, DeviceKind, DeviceQueue, GuestMemory, VirtioDevice};
use crate::{Error, Result};

/// A network card over a tap, whose frames the host's kernel moves.
#[derive(Debug)]
pub struct VhostNetConfig {
    /// The tap; of one queue.
    pub tap: Tap,
    /// The card's address.
    pub mac: MacAddress,
    /// The largest packet that the guest may send, in bytes without the Ethernet
    /// header; the guest is told if it is said.
    pub mtu: Option<u16>,
}

impl VhostNetConfig {
    /// The device, for a transport of this process, which uses `memory`.
    ///
    /// # Errors
    /// When the tap has several queues, or the host has no vhost-net or refuses it.
    pub fn device(self, memory: Arc<GuestMemory>) -> Result<Box<dyn VirtioDevice>> {
        let tap = self.tap.into_single()?;
        let failed = || Error::host("open /dev/vhost-net; is the module vhost_net loaded?");
        let net = Net::new(memory).map_err(|error| failed()(io::Error::other(error)))?;
        let link = VhostKernelNet::new(net, tap).map_err(failed())?;
        let mut offered = crate::net::offered_without_control();
        if self.mtu.is_some() {
            offered |= 1 << virtio_net::VIRTIO_NET_F_MTU;
        }
        let mut space = self.mac.0.to_vec();
        // The link is up, and there is one pair.
        space.extend([1, 0, 1, 0]);
        space.extend(self.mtu.unwrap_or(0).to_le_bytes());
        let sizes = vec![256, 256];
        let device = Offloaded::new(link, DeviceKind::NET, sizes, offered, space);
        Ok(Box::new(device))
    }
}

/// What the tap and this process serve, whether or not the kernel's ring does.
const OURS: u64 = 1 << virtio_net::VIRTIO_NET_F_MAC
    | 1 << virtio_net::VIRTIO_NET_F_STATUS
    | 0x1f << virtio_net::VIRTIO_NET_F_GUEST_TSO4
    | 0x0f << virtio_net::VIRTIO_NET_F_HOST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM;

struct VhostKernelNet {
    net: Net<Arc<GuestMemory>>,
    served: u64,
    tap: TapQueue,
    file: File,
}

impl VhostKernelNet {
    fn new(net: Net<Arc<GuestMemory>>, tap: TapQueue) -> io::Result<Self> {
        net.set_owner().map_err(io::Error::other)?;
        let served = net.get_features().map_err(io::Error::other)?;
        let file = File::from(tap.as_fd().try_clone_to_owned()?);
        Ok(Self {
            net,
            served,
            tap,
            file,
        })
    }
}

impl Link for VhostKernelNet {
    fn features(&self) -> u64 {
        self.served | OURS
    }

    fn begin(
        &mut self,
        features: u64,
        memory: &GuestMemory,
        _events: &Arc<dyn DeviceEvents>,
    ) -> io::Result<()> {
        self.tap.set_offloads(features)?;
        self.net
            .set_features(features & self.served)
            .map_err(io::Error::other)?;
        let regions: Vec<_> = memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo {
                guest_phys_addr: vm_memory::Address::raw_value(&region.start_addr()),
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
                mmap_offset: 0,
                mmap_handle: -1,
            })
            .collect();
        self.net.set_mem_table(&regions).map_err(io::Error::other)
    }

    fn start(&mut self, index: usize, running: &DeviceQueue) -> io::Result<()> {
        let state = running.queue.queue();
        let address = VringConfigData {
            queue_max_size: state.max_size(),
            queue_size: state.size(),
            flags: 0,
            desc_table_addr: state.desc_table(),
            used_ring_addr: state.used_ring(),
            avail_ring_addr: state.avail_ring(),
            log_addr: None,
        };
        let call = call_of(running)?;
        let kick = duplicate(running.kick.as_fd())?;
        let set_up = || -> vhost::Result<()> {
            self.net.set_vring_num(index, state.size())?;
            self.net.set_vring_base(index, state.next_avail())?;
            self.net.set_vring_addr(index, &address)?;
            self.net.set_vring_call(index, &call)?;
            self.net.set_vring_kick(index, &kick)?;
            self.net.set_backend(index, Some(&self.file))
        };
        set_up().map_err(io::Error::other)?;
        running.kick.signal();
        Ok(())
    }

    fn stop(&mut self, index: usize) -> io::Result<u16> {
        let stop = || -> vhost::Result<u32> {
            self.net.set_backend(index, None)?;
            self.net.get_vring_base(index)
        };
        let base = stop().map_err(io::Error::other)?;
        u16::try_from(base & 0xffff).map_err(io::Error::other)
    }
}
