//! Changing a container's limits.

use std::io::Read as _;
use std::path::Path;

use kata_sandbox::oci;

use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{Failure, Result, errno_text};
use crate::root::Root;
use crate::state::Status;

/// The command.
pub(crate) fn update(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let locked = Root::open(&globals.root)?.lock(arguments.argument(0)?)?;
    for unsupported in ["l3-cache-schema", "mem-bw-schema"] {
        if arguments.filled(unsupported).is_some() {
            let reason = format!("--{unsupported}: a guest has no Intel RDT");
            return Err(Failure::new(reason));
        }
    }
    let resources = match arguments.filled("resources") {
        Some(path) => from_file(path)?,
        None => from_options(arguments)?,
    };
    match locked.record.status() {
        Status::Running | Status::Paused | Status::Created => {}
        _ => return Err(Failure::not_running()),
    }
    client::block_on(async {
        match client::container(globals, &locked.record).await? {
            Some(container) => Ok(container.update(&resources).await?),
            None => Err(Failure::not_running()),
        }
    })??;
    Ok(0)
}

fn from_file(path: &str) -> Result<oci::LinuxResources> {
    let mut text = String::new();
    if path == "-" {
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| Failure::new(format!("read /dev/stdin: {}", errno_text(&error))))?;
    } else {
        text = std::fs::read_to_string(path)
            .map_err(|error| Failure::io("open", Path::new(path), &error))?;
    }
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("{path}: {error}")))
}

fn from_options(arguments: &Arguments) -> Result<oci::LinuxResources> {
    let mut resources = oci::LinuxResources::default();
    resources.set_cpu(cpu(arguments)?);
    resources.set_memory(memory(arguments)?);
    let weight = arguments.number("blkio-weight");
    if weight != 0 {
        let weight = u16::try_from(weight)
            .map_err(|_| Failure::new(format!("invalid value for blkio-weight: {weight}")))?;
        let mut block = oci::LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
    }
    let pids = arguments.number("pids-limit");
    if pids != 0 {
        let mut limit = oci::LinuxPids::default();
        limit.set_limit(pids);
        resources.set_pids(Some(limit));
    }
    Ok(resources)
}

fn cpu(arguments: &Arguments) -> Result<Option<oci::LinuxCpu>> {
    let mut cpu = oci::LinuxCpu::default();
    cpu.set_shares(number(arguments, "cpu-share")?)
        .set_period(number(arguments, "cpu-period")?)
        .set_quota(signed(arguments, "cpu-quota")?)
        .set_realtime_period(number(arguments, "cpu-rt-period")?)
        .set_realtime_runtime(signed(arguments, "cpu-rt-runtime")?)
        .set_cpus(arguments.filled("cpuset-cpus").map(str::to_owned))
        .set_mems(arguments.filled("cpuset-mems").map(str::to_owned));
    Ok((cpu != oci::LinuxCpu::default()).then_some(cpu))
}

fn memory(arguments: &Arguments) -> Result<Option<oci::LinuxMemory>> {
    let mut memory = oci::LinuxMemory::default();
    memory
        .set_limit(size(arguments, "memory")?)
        .set_reservation(size(arguments, "memory-reservation")?)
        .set_swap(size(arguments, "memory-swap")?);
    Ok((memory != oci::LinuxMemory::default()).then_some(memory))
}

fn number(arguments: &Arguments, name: &str) -> Result<Option<u64>> {
    parsed(arguments, name)
}

fn signed(arguments: &Arguments, name: &str) -> Result<Option<i64>> {
    parsed(arguments, name)
}

fn parsed<T: std::str::FromStr>(arguments: &Arguments, name: &str) -> Result<Option<T>> {
    arguments
        .filled(name)
        .map(|text| {
            text.parse().map_err(|_| {
                Failure::new(format!("invalid value for {name}: {text:?} is no number"))
            })
        })
        .transpose()
}

fn size(arguments: &Arguments, name: &str) -> Result<Option<i64>> {
    arguments
        .filled(name)
        .map(|text| {
            parse_size(text).ok_or_else(|| {
                Failure::new(format!("invalid value for {name}: invalid size: '{text}'"))
            })
        })
        .transpose()
}

/// Bytes, or with a unit of 1024s: `50m`, `1GiB`; `-1` is no limit.
fn parse_size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ').to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit = 1_i64 << shift;
    let bytes = whole.parse::<i64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(bytes);
    }
    let parts = fraction.get(..9).unwrap_or(fraction);
    let scale = 10_i128.checked_pow(u32::try_from(parts.len()).ok()?)?;
    let part = i128::from(parts.parse::<i64>().ok()?) * i128::from(unit) / scale;
    bytes.checked_add(i64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [
            ("-1", -1),
            ("100", 100),
            ("50m", 50 << 20),
            ("50M", 50 << 20),
            ("1GiB", 1 << 30),
            ("1.5k", 1536),
            ("2kb", 2048),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "abc", "m", "5x", "-2", "99999999999999g"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
