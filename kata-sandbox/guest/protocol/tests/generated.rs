//! The generated code is what `proto/` says.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::fmt::Write as _;
use std::path::Path;

use prost_build::{Method, Service, ServiceGenerator};

/// Writes a typed client and a server trait for each service.
struct Ttrpc;

impl ServiceGenerator for Ttrpc {
    fn generate(&mut self, service: Service, out: &mut String) {
        let module = module_name(&service.name);
        let full = format!("{}.{}", service.package, service.proto_name);
        client(&service, &module, &full, out);
        server(&service, &module, &full, out);
    }

    fn finalize_package(&mut self, _package: &str, out: &mut String) {
        out.push_str("use super::types;\n");
    }
}

fn module_name(service: &str) -> String {
    let mut name = String::new();
    for c in service.trim_end_matches("Service").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    name
}

fn client(service: &Service, module: &str, full: &str, out: &mut String) {
    let name = &service.name;
    writeln!(
        out,
        "/// Calls of `{full}`.
pub mod {module}_client {{
use super::*;
/// A typed face of a [`Client`](crate::ttrpc::Client); each call takes a deadline, `None` for no limit.
#[derive(Clone, Debug)]
pub struct {name}Client(pub crate::ttrpc::Client);
impl {name}Client {{"
    )
    .unwrap();
    for Method {
        name,
        proto_name,
        input_type,
        output_type,
        ..
    } in &service.methods
    {
        writeln!(
            out,
            "/// Calls `{proto_name}`.
pub async fn {name}(&self, request: &{input_type}, deadline: Option<std::time::Duration>) -> Result<{output_type}, crate::ttrpc::CallError> {{
self.0.call(\"{full}\", \"{proto_name}\", request, deadline).await
}}"
        )
        .unwrap();
    }
    out.push_str("}\n}\n");
}

fn server(service: &Service, module: &str, full: &str, out: &mut String) {
    let name = &service.name;
    writeln!(
        out,
        "/// Serving `{full}`.
pub mod {module}_service {{
use super::*;
use crate::ttrpc::Status;
use prost::Message as _;
// Not the specification's Box of a console size.
use std::boxed::Box;
/// What a server of `{full}` does; a method left out answers UNIMPLEMENTED by name.
#[async_trait::async_trait(?Send)]
pub trait {name} {{"
    )
    .unwrap();
    for Method {
        name,
        proto_name,
        input_type,
        output_type,
        ..
    } in &service.methods
    {
        writeln!(
            out,
            "/// Answers `{proto_name}`.
async fn {name}(&self, request: {input_type}) -> Result<{output_type}, Status> {{
let _ = request;
Err(Status::unimplemented(\"{proto_name}\"))
}}"
        )
        .unwrap();
    }
    writeln!(
        out,
        "}}
/// Decodes a request, lets `service` answer it, and encodes the answer.
pub async fn dispatch(service: &dyn {name}, method: &str, request: bytes::Bytes) -> Result<Vec<u8>, Status> {{
let malformed = |error: prost::DecodeError| Status::new(crate::ttrpc::Code::InvalidArgument, format!(\"{{method}}: {{error}}\"));
match method {{"
    )
    .unwrap();
    for Method {
        name,
        proto_name,
        input_type,
        ..
    } in &service.methods
    {
        writeln!(
            out,
            "\"{proto_name}\" => Ok(service.{name}(<{input_type}>::decode(request).map_err(malformed)?).await?.encode_to_vec()),"
        )
        .unwrap();
    }
    out.push_str("other => Err(Status::unimplemented(other)),\n}\n}\n}\n");
}

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join("proto");
    let files = [
        "agent.proto",
        "health.proto",
        "oci.proto",
        "types.proto",
        "csi.proto",
    ];
    let descriptors = protox::compile(files.map(|f| proto.join(f)), [&proto]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .btree_map(["."])
        .service_generator(Box::new(Ttrpc))
        .compile_fds(descriptors)
        .unwrap();
    for file in ["grpc.rs", "types.rs"] {
        let fresh = out.path().join(file);
        let status = std::process::Command::new("rustfmt")
            .args(["--edition", "2024"])
            .arg(&fresh)
            .status()
            .expect("rustfmt runs");
        assert!(status.success());
        let kept = root.join("src/generated").join(file);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::copy(&fresh, &kept).unwrap();
        }
        assert!(
            std::fs::read_to_string(&fresh).unwrap() == std::fs::read_to_string(&kept).unwrap(),
            "{file} is not what proto/ says; run this test with UPDATE_GENERATED=1"
        );
    }
}
