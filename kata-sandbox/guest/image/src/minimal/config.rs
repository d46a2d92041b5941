//! The configuration of the minimal kernel: fragments over `allnoconfig`.

use std::collections::BTreeMap;

use crate::Architecture;

const COMMON: &str = include_str!("../../kernel/common.config");
const X86_64: &str = include_str!("../../kernel/x86_64.config");
const AARCH64: &str = include_str!("../../kernel/aarch64.config");

/// What is asked of a kernel's configuration.
#[derive(Clone, Debug)]
pub(super) struct Fragments {
    text: String,
}

impl Fragments {
    pub(super) fn of(architecture: Architecture) -> Self {
        let own = match architecture {
            Architecture::X86_64 => X86_64,
            Architecture::Aarch64 => AARCH64,
        };
        Self {
            text: format!("{COMMON}\n{own}"),
        }
    }

    /// As `KCONFIG_ALLCONFIG` takes them.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What was asked for and is not in `config`, as lines.
    pub(super) fn lost(&self, config: &str) -> Vec<String> {
        let kept: BTreeMap<_, _> = config.lines().filter_map(option).collect();
        let asked: BTreeMap<_, _> = self.text.lines().filter_map(option).collect();
        let is_lost = |(name, value): &(&str, &str)| kept.get(name).unwrap_or(&"n") != value;
        asked
            .into_iter()
            .filter(is_lost)
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// Name and value of the option that a line sets; `n` when it unsets one.
fn option(line: &str) -> Option<(&str, &str)> {
    match line
        .strip_prefix("# ")
        .and_then(|line| line.strip_suffix(" is not set"))
    {
        Some(name) => Some((name, "n")),
        None => line
            .split_once('=')
            .filter(|(name, _)| name.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_not_there_or_not_the_same_is_lost() {
        let fragments = Fragments {
            text: "# why\nCONFIG_A=y\nCONFIG_B=\"x=y\"\nCONFIG_C=n\n# CONFIG_D is not set\nCONFIG_E=y\n"
                .into(),
        };
        let config = "CONFIG_A=y\nCONFIG_B=\"x=y\"\nCONFIG_D=y\n# CONFIG_E is not set\n";
        assert_eq!(fragments.lost(config), ["CONFIG_D=n", "CONFIG_E=y"]);
        assert_eq!(fragments.lost(fragments.text()), Vec::<String>::new());
    }

    #[test]
    fn each_architecture_has_its_own_fragment_after_the_common_one() {
        let x86_64 = Fragments::of(Architecture::X86_64);
        let aarch64 = Fragments::of(Architecture::Aarch64);
        assert!(x86_64.text().contains("CONFIG_PVH=y"));
        assert!(aarch64.text().contains("CONFIG_ARM_GIC_V3=y"));
        assert!(!aarch64.text().contains("CONFIG_PVH=y"));
        assert!(x86_64.text().starts_with(COMMON) && aarch64.text().starts_with(COMMON));
    }
}
