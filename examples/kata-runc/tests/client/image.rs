//! Images that containerd imports.

use std::path::Path;
use std::process::Command;

/// An image archive as `docker save` makes one, of the root file system's in
/// `image.tar`, that runs `command` by default. It is `localhost/NAME:latest`.
pub(crate) fn archive(directory: &Path, name: &str, command: &[&str]) -> String {
    let image = directory.join(format!("docker-{name}"));
    std::fs::create_dir(&image).unwrap();
    std::fs::copy(directory.join("image.tar"), image.join("layer.tar")).unwrap();
    let digest = Command::new("sha256sum")
        .arg(image.join("layer.tar"))
        .output()
        .unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    let digest = digest.split(' ').next().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    std::fs::write(image.join("config.json"), config.to_string()).unwrap();
    let manifest = serde_json::json!([{
        "Config": "config.json",
        "RepoTags": [format!("localhost/{name}:latest")],
        "Layers": ["layer.tar"],
    }]);
    std::fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.join(format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&image).arg("-cf").arg(&archive);
    tar.args(["manifest.json", "config.json", "layer.tar"]);
    assert!(tar.status().unwrap().success());
    archive.display().to_string()
}
