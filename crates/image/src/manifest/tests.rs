use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn blob(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(media_type.as_bytes()).to_string(), "size": 7})
}

fn image(layers: usize) -> Value {
    json!({"schemaVersion": 2, "config": blob(CONFIG), "layers": vec![blob(GZIP); layers]})
}

fn index_of(platform: Value) -> Value {
    let mut entry = blob(MediaType::OciManifest.as_str());
    entry["platform"] = platform;
    json!({"schemaVersion": 2, "manifests": [entry]})
}

fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    match document.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => document[&pointer[1..]] = value,
    }
    document
}

fn read(document: &Value, media_type: Option<&str>) -> Result<Document, ManifestError> {
    parse(document.to_string().as_bytes(), media_type)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn images_of_both_dialects() {
    let Ok(Document::Manifest(oci)) = read(&image(2), None) else { panic!() };
    assert_eq!(oci.media_type, MediaType::OciManifest);
    assert_eq!(oci.layers.len(), 2);
    assert_eq!(oci.layers[0].descriptor.size, 7);

    let docker = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::DockerManifest.as_str(),
        "config": blob("application/vnd.docker.container.image.v1+json"),
        "layers": [
            blob("application/vnd.docker.image.rootfs.diff.tar"),
            blob("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            blob("application/vnd.docker.image.rootfs.diff.tar.zstd"),
            blob("application/vnd.oci.image.layer.v1.tar"),
            blob("application/vnd.oci.image.layer.v1.tar+zstd"),
        ],
        "annotations": null,
    });
    let Ok(Document::Manifest(docker)) = read(&docker, Some("application/json")) else { panic!() };
    assert_eq!(docker.media_type, MediaType::DockerManifest);
    let compression: Vec<_> = docker.layers.iter().map(|layer| layer.compression).collect();
    use Compression as C;
    assert_eq!(compression, [C::None, C::Gzip, C::Zstd, C::None, C::Zstd]);
}

#[test]
fn null_lists_are_empty() {
    let Ok(Document::Manifest(empty)) = read(&with(image(0), "/layers", Value::Null), None) else { panic!() };
    assert!(empty.layers.is_empty());
    let null = json!({"schemaVersion": 2, "manifests": null});
    let Ok(Document::Index(empty)) = read(&null, None) else { panic!() };
    assert!(empty.manifests.is_empty());
}

#[test]
fn indexes_carry_platforms() {
    let platform =
        json!({"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1", "features": null});
    let Ok(Document::Index(index)) = read(&index_of(platform), Some("text/plain; charset=utf-8")) else {
        panic!()
    };
    assert_eq!(index.manifests[0].platform, Some("linux/arm64".parse().unwrap()));
    let Ok(Document::Index(list)) =
        read(&index_of(Value::Null), Some("application/vnd.docker.distribution.manifest.list.v2+json"))
    else {
        panic!()
    };
    assert_eq!((list.media_type, list.manifests[0].platform.clone()), (MediaType::DockerList, None));
}

#[test]
fn served_stated_and_shape_must_agree() {
    let oci = MediaType::OciManifest.as_str();
    let oci_index = MediaType::OciIndex.as_str();
    let stated = with(image(1), "/mediaType", json!(oci));
    let both = with(image(1), "/manifests", json!([]));
    let table = [
        (&stated, Some(oci), None),
        (&stated, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), None),
        (&stated, Some(oci_index), Some("was served as")),
        (&stated, Some(MediaType::DockerManifest.as_str()), Some("was served as")),
        (&image(1), Some(oci_index), Some("an index with a config or layers")),
        (&index_of(Value::Null), Some(oci), Some("with a list of manifests")),
        (&both, None, Some("both manifests and layers")),
        (&both, Some(oci), Some("both manifests and layers")),
        (&with(both.clone(), "/manifests", Value::Null), Some(oci), Some("both manifests and layers")),
        (&stated, Some("text/html"), Some("\"text/html\" is neither")),
        (&with(image(1), "/mediaType", json!("application/x")), None, Some("\"application/x\" is neither")),
        (&json!({"schemaVersion": 2}), None, Some("no config, layers or manifests")),
        (&json!({"schemaVersion": 2, "mediaType": oci_index}), None, Some("no manifests")),
    ];
    for (document, media_type, wanted) in table {
        let error = read(document, media_type).err().map(|error| error.to_string());
        match wanted {
            None => assert_eq!(error, None),
            Some(wanted) => {
                assert!(error.as_ref().is_some_and(|e| e.contains(wanted)), "{document}: {error:?}")
            }
        }
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let layer = |media_type: &str| with(image(1), "/layers/0", blob(media_type));
    let foreign_url = {
        let mut document = image(1);
        document["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        document
    };
    let schema1 = json!({"schemaVersion": 1, "name": "a", "fsLayers": [], "signatures": []});
    let table = [
        (schema1.clone(), "schema 1"),
        (
            with(image(1), "/mediaType", json!("application/vnd.docker.distribution.manifest.v1+prettyjws")),
            "schema 1",
        ),
        (with(image(1), "/schemaVersion", json!(3)), "version 3"),
        (json!({"config": {"digest": "", "size": 0}, "layers": []}), "no schemaVersion"),
        (with(image(1), "/config/mediaType", json!("application/vnd.cncf.helm.config.v1+json")), "helm"),
        (with(image(1), "/artifactType", json!("application/x-sbom")), "x-sbom"),
        (layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "layer 0 is a foreign"),
        (layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "layer 0 is a foreign"),
        (foreign_url, "layer 0 is a foreign"),
        (layer("application/vnd.oci.image.layer.v1.tar+encrypted"), "+encrypted"),
        (layer(""), "unsupported media type"),
        (image(501), "501 layers, the limit is 500"),
        (with(image(1), "/layers/0/size", json!(-1)), "size of -1"),
        (with(image(1), "/layers/0/size", json!(1.5)), "size of 1.5"),
        (with(image(1), "/layers/0/size", json!(u64::MAX)), "layer 0 gives a size"),
        (with(image(1), "/config/size", json!(9 << 20)), "0 to 8388608"),
        (with(index_of(Value::Null), "/manifests/0/size", json!(5 << 20)), "manifest 0 of the index"),
        (with(image(1), "/layers/0/digest", json!("sha256:x")), "layer 0 is wrong: a sha256 digest has 64"),
        (with(image(1), "/layers/0/size", json!("7")), "cannot be parsed"),
        (json!([]), "cannot be parsed"),
        (with(image(0), "/config", Value::Null), "no config"),
        (json!({"schemaVersion": 2, "config": blob(CONFIG)}), "no layers"),
    ];
    for (document, wanted) in table {
        let error = chain(&read(&document, None).expect_err(wanted));
        assert!(error.contains(wanted), "{document}: {error}");
    }
    assert!(read(&image(500), None).is_ok());
    assert!(matches!(read(&schema1, None), Err(ManifestError::Schema1)));
}

#[test]
fn an_index_may_list_large_things_that_are_no_manifests() {
    let mut blob = blob("application/octet-stream");
    blob["size"] = json!(5 << 20);
    assert!(read(&json!({"schemaVersion": 2, "manifests": [blob]}), None).is_ok());
}

#[test]
fn sizes_are_bounded() {
    let bytes = vec![b' '; limits::MANIFEST_BYTES as usize + 1];
    assert!(parse(&bytes, None).unwrap_err().to_string().contains("limit is 4194304"));
    let many = json!({"schemaVersion": 2, "manifests": vec![blob("x"); limits::INDEX_ENTRIES + 1]});
    assert!(read(&many, None).unwrap_err().to_string().contains("4097 entries"));
}

#[test]
fn a_key_given_twice_is_an_error() {
    let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[],"layers":[]}}"#, blob(CONFIG));
    assert!(chain(&parse(text.as_bytes(), None).unwrap_err()).contains("duplicate field `layers`"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, None);
    }

    #[test]
    fn no_mutation_panics(at in 0_usize..400, byte: u8) {
        let mut bytes = image(2).to_string().into_bytes();
        let place = at % bytes.len();
        bytes[place] = byte;
        let _ = parse(&bytes, None);
    }
}
