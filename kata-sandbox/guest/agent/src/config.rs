//! What the kernel command line and the environment ask of the agent.
//!
//! The keys are Kata's. A key that is not known, or a value that makes no
//! sense, is reported in the log and otherwise ignored: a machine that boots
//! with a default is easier to diagnose than one that does not boot.

use std::path::PathBuf;
use std::time::Duration;

use kata_protocol::port;
use log::LevelFilter;

use crate::socket::ANY_CID;

/// Keys of Kata's for helper processes that this agent does not have.
const OF_OTHERS: [&str; 4] = [
    "launch_process_timeout",
    "cdi_timeout",
    "cdh_api_timeout",
    "image_pull_timeout",
];

/// Where calls are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// A vsock port; `cid` is mostly [`ANY_CID`].
    Vsock { cid: u32, port: u32 },
    /// A unix socket; other ports are sockets beside it, `<path>_<port>`.
    Unix(PathBuf),
}

/// The agent's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Least level that is logged.
    pub(crate) log_level: LevelFilter,
    /// Serve the log on this vsock port rather than write it to the console.
    pub(crate) log_port: Option<u32>,
    /// Serve a shell on this vsock port.
    pub(crate) debug_console: Option<u32>,
    /// Where calls are served.
    pub(crate) server: ServerAddress,
    /// Where standard streams are served.
    pub(crate) stdio_port: u32,
    /// How long to wait for a device that the host says is there.
    pub(crate) hotplug_timeout: Duration,
    /// Capacity of the pipes of containers' standard streams.
    pub(crate) pipe_size: Option<u32>,
    /// A file with further settings, one `key = value` a line.
    file: Option<PathBuf>,
    /// What was not understood, to be logged once there is a log.
    pub(crate) complaints: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_level: LevelFilter::Warn,
            log_port: None,
            debug_console: None,
            server: ServerAddress::Vsock {
                cid: ANY_CID,
                port: port::AGENT,
            },
            stdio_port: port::STDIO,
            hotplug_timeout: Duration::from_secs(3),
            pipe_size: None,
            file: None,
            complaints: Vec::new(),
        }
    }
}

impl Config {
    /// Settings of this machine: `command_line`, then the file it names, then
    /// the environment.
    pub(crate) fn read(command_line: &str) -> Self {
        let mut config = Self::from_command_line(command_line);
        if let Some(file) = config.file.take() {
            match std::fs::read_to_string(&file) {
                Ok(text) => config.apply_file(&text),
                Err(error) => config.complain(format!("{}: {error}", file.display())),
            }
        }
        for (variable, key) in [
            ("KATA_AGENT_SERVER_ADDR", "server_addr"),
            ("KATA_AGENT_LOG_LEVEL", "log"),
        ] {
            if let Ok(value) = std::env::var(variable) {
                config.set(key, &value);
            }
        }
        config
    }

    fn from_command_line(text: &str) -> Self {
        let mut config = Self::default();
        for word in text.split_ascii_whitespace() {
            if let Some(setting) = word.strip_prefix("agent.") {
                let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
                config.set(key, value);
            }
        }
        config
    }

    /// The flat part of Kata's TOML: comments, `key = value`, quoted strings.
    fn apply_file(&mut self, text: &str) {
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((key, value)) => {
                    let value = value.trim();
                    let value = value.strip_prefix('"').map_or(value, |rest| {
                        rest.split_once('"').map_or(rest, |(quoted, _)| quoted)
                    });
                    let key = key.trim().strip_prefix("agent.").unwrap_or(key.trim());
                    // Kata's file calls two settings by longer names.
                    self.set(if key == "log_level" { "log" } else { key }, value);
                }
                None => self.complain(format!("no setting: {line}")),
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let understood = match key {
            "log" => parse_level(value).map(|level| self.log_level = level),
            "log_vport" => value.parse().ok().map(|port| self.log_port = Some(port)),
            "debug_console" => {
                self.debug_console.get_or_insert(port::DEBUG_CONSOLE);
                Some(())
            }
            "debug_console_vport" => value
                .parse()
                .ok()
                .map(|port| self.debug_console = Some(port)),
            "server_addr" => parse_address(value).map(|address| self.server = address),
            "passfd_listener_port" => value.parse().ok().map(|port| self.stdio_port = port),
            "hotplug_timeout" => parse_seconds(value).map(|limit| self.hotplug_timeout = limit),
            "container_pipe_size" => value.parse().ok().map(|size: u32| {
                self.pipe_size = (size > 0).then_some(size);
            }),
            "config_file" => {
                self.file = Some(PathBuf::from(value));
                Some(())
            }
            other if OF_OTHERS.contains(&other) => Some(()),
            _ => None,
        };
        if understood.is_none() {
            self.complain(format!("setting agent.{key}={value} is not understood"));
        }
    }

    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }
}

fn parse_level(value: &str) -> Option<LevelFilter> {
    match value {
        "critical" => Some(LevelFilter::Error),
        "warning" => Some(LevelFilter::Warn),
        other => other.parse().ok(),
    }
}

fn parse_seconds(value: &str) -> Option<Duration> {
    value
        .parse()
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn parse_address(value: &str) -> Option<ServerAddress> {
    if let Some(path) = value.strip_prefix("unix://") {
        return Some(ServerAddress::Unix(PathBuf::from(path)));
    }
    let (cid, port) = value.strip_prefix("vsock://")?.split_once(':')?;
    let cid = if cid == "-1" {
        ANY_CID
    } else {
        cid.parse().ok()?
    };
    Some(ServerAddress::Vsock {
        cid,
        port: port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_key_is_understood() {
        let config = Config::from_command_line(
            "console=ttyS0 agent.log=debug agent.log_vport=1025 agent.debug_console \
             agent.debug_console_vport=99 agent.server_addr=vsock://-1:2048 \
             agent.hotplug_timeout=7 agent.container_pipe_size=4096 \
             agent.passfd_listener_port=1030 agent.launch_process_timeout=9",
        );
        assert_eq!(config.complaints, Vec::<String>::new());
        assert_eq!(config.log_level, LevelFilter::Debug);
        assert_eq!(config.log_port, Some(1025));
        assert_eq!(config.debug_console, Some(99));
        assert_eq!(
            config.server,
            ServerAddress::Vsock {
                cid: ANY_CID,
                port: 2048
            }
        );
        assert_eq!(config.hotplug_timeout, Duration::from_secs(7));
        assert_eq!(config.pipe_size, Some(4096));
        assert_eq!(config.stdio_port, 1030);
    }

    #[test]
    fn nonsense_is_reported_and_the_default_kept() {
        let config = Config::from_command_line("agent.hotplug_timeout=soon agent.colour=blue");
        assert_eq!(config.hotplug_timeout, Duration::from_secs(3));
        assert_eq!(config.complaints.len(), 2);
    }

    #[test]
    fn a_file_sets_what_the_command_line_could() {
        let mut config = Config::default();
        config
            .apply_file("# a comment\nserver_addr = \"unix:///run/a.sock\"\nlog_level=\"info\"\n");
        assert_eq!(config.complaints, Vec::<String>::new());
        assert_eq!(
            config.server,
            ServerAddress::Unix(PathBuf::from("/run/a.sock"))
        );
        assert_eq!(config.log_level, LevelFilter::Info);
    }
}
