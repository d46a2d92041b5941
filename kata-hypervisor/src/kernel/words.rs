//! The kernel command line while it is put together.

use crate::config::KernelCommandLine;

/// The kernel command line while it is put together: defaults first, so that
/// what the caller says comes last and stands.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    defaults: Vec<String>,
    given: &'a KernelCommandLine,
}

impl<'a> Words<'a> {
    pub(crate) fn new(given: &'a KernelCommandLine) -> Self {
        Self {
            defaults: Vec::new(),
            given,
        }
    }

    /// Adds `word` unless the caller set `key` already.
    pub(crate) fn default(&mut self, key: &str, word: impl Into<String>) {
        let is_key = |word: &String| word.split('=').next() == Some(key);
        if !self.given.words().iter().any(is_key) {
            self.defaults.push(word.into());
        }
    }

    /// Adds `word`, whatever the caller said.
    #[cfg(feature = "kvm")]
    pub(crate) fn always(&mut self, word: impl Into<String>) {
        self.defaults.push(word.into());
    }

    /// All words on one line.
    pub(crate) fn into_line(mut self) -> String {
        self.defaults.extend_from_slice(self.given.words());
        self.defaults.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_says_comes_last_and_stands() {
        let given: KernelCommandLine = ["quiet", "panic=5"].into_iter().collect();
        let mut words = Words::new(&given);
        words.default("panic", "panic=-1");
        words.default("console", "console=ttyS0");
        assert_eq!(words.into_line(), "console=ttyS0 quiet panic=5");
    }
}
