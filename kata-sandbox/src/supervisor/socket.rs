//! The socket that a supervisor is reached by.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};

/// Its name, in the sandbox's directory.
pub(crate) const NAME: &str = "control";

/// Listens at `path`, which only this user can open.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    // The directory is this user's alone: nobody was faster.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Whether the other side is this user, or root.
pub(super) fn is_trusted(socket: &UnixStream) -> io::Result<bool> {
    let peer = socket.peer_cred()?.uid();
    Ok(may_talk(peer, geteuid().as_raw()))
}

fn may_talk(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_the_same_user_and_root_may_talk() {
        assert!(may_talk(1000, 1000) && may_talk(0, 1000) && may_talk(0, 0));
        assert!(!may_talk(1001, 1000) && !may_talk(1000, 0));
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let listener = listen(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(is_trusted(&connected.unwrap()).unwrap());
        assert!(is_trusted(&accepted.unwrap().0).unwrap());
    }
}
