//! A bandwidth for what leaves by a link: what
//! `tc qdisc add dev A root tbf rate R burst B latency L` sets (`tc-tbf(8)`).

use std::io;
use std::time::Duration;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rustix::io::Errno;

use super::Rtnl;
use super::redirect::header;

/// What the kernel calls a token bucket.
const KIND: &str = "tbf";
/// By which our disciplines are told from others' after a crash.
const OURS: TcHandle = TcHandle {
    major: 0x4b41,
    minor: 0,
};
/// How long a packet may wait for its turn: more, and it is dropped.
const LATENCY: Duration = Duration::from_millis(50);
/// Units of the kernel's clock in a second (`PSCHED_TICKS_PER_SEC`).
const TICKS: u64 = 1_000_000_000 / 64;
/// The size of the kernel's table of transmission times.
const CELLS: usize = 256;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RTAB: u16 = 2;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

/// Lets so many bytes leave in a second, and `burst` at once after a pause.
///
/// # Errors
/// `AlreadyExists` when the link has a discipline of somebody else's.
pub(crate) fn shape(rtnl: &mut Rtnl, index: u32, rate: u64, burst: u32) -> io::Result<()> {
    let mut message = TcMessage::default();
    message.header = header(index, TcHandle::ROOT)?;
    message.header.handle = OURS;
    let other = |kind, bytes| TcOption::Other(DefaultNla::new(kind, bytes));
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Options(vec![
            other(TCA_TBF_PARMS, parameters(rate, burst)),
            other(TCA_TBF_BURST, burst.to_ne_bytes().to_vec()),
            other(TCA_TBF_RATE64, rate.to_ne_bytes().to_vec()),
            other(TCA_TBF_RTAB, times(rate)),
        ]),
    ];
    let make = NLM_F_CREATE | NLM_F_EXCL;
    rtnl.change(RouteNetlinkMessage::NewQueueDiscipline(message), make)
}

/// `struct tc_tbf_qopt` of `linux/pkt_sched.h`: two `struct tc_ratespec`, then
/// limit, buffer and mtu.
fn parameters(rate: u64, burst: u32) -> Vec<u8> {
    let small = u32::try_from(rate).unwrap_or(u32::MAX);
    let waiting = u128::from(rate) * LATENCY.as_millis() / 1000;
    let limit = u32::try_from(waiting)
        .unwrap_or(u32::MAX)
        .saturating_add(burst);
    let mut bytes = Vec::with_capacity(36);
    // cell_log, linklayer (Ethernet), overhead, cell_align, mpu, rate
    bytes.extend_from_slice(&[CELL_LOG, 1, 0, 0, 0xff, 0xff, 0, 0]);
    bytes.extend_from_slice(&small.to_ne_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&limit.to_ne_bytes());
    bytes.extend_from_slice(&ticks(u64::from(burst), rate).to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes
}

/// Cells of 256 bytes cover the largest packet.
const CELL_LOG: u8 = 8;

/// How long each size of packet takes: kernels since 3.8 look at it no more, but
/// want it to be there.
fn times(rate: u64) -> Vec<u8> {
    let sizes = (1..=CELLS).filter_map(|cell| u64::try_from(cell << CELL_LOG).ok());
    sizes
        .flat_map(|size| ticks(size, rate).to_ne_bytes())
        .collect()
}

/// How long so many bytes take, in the kernel's units.
fn ticks(bytes: u64, rate: u64) -> u32 {
    let ticks = u128::from(bytes) * u128::from(TICKS) / u128::from(rate.max(1));
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Takes back what [`shape`] set for a link, if it did.
pub(crate) fn unshape(rtnl: &mut Rtnl, index: u32) -> io::Result<()> {
    let mut all = TcMessage::default();
    all.header = header(index, TcHandle::UNSPEC)?;
    let listed = rtnl.dump(&RouteNetlinkMessage::GetQueueDiscipline(all))?;
    let here = i32::try_from(index).map_err(|_| io::Error::from(Errno::NODEV))?;
    let is_ours = |message: &RouteNetlinkMessage| {
        matches!(message, RouteNetlinkMessage::NewQueueDiscipline(qdisc)
            if qdisc.header.index == here && qdisc.header.handle == OURS)
    };
    if !listed.iter().any(is_ours) {
        return Ok(());
    }
    let mut message = TcMessage::default();
    message.header = header(index, TcHandle::ROOT)?;
    message.header.handle = OURS;
    rtnl.change(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structure_is_filled() {
        let bytes = parameters(125_000, 65_536);
        assert_eq!(bytes.len(), 36);
        assert_eq!(bytes[8..12], 125_000_u32.to_ne_bytes());
        assert_eq!(bytes[24..28], (65_536_u32 + 6_250).to_ne_bytes());
        assert_eq!(times(125_000).len(), 1024);
        assert_eq!(ticks(125_000, 125_000), 15_625_000);
    }
}
