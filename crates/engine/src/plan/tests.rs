use plywood_kernel::idmap::IdRange;

use super::*;
use crate::capabilities::Answer;
use crate::lower::{LowerRef, LowersError, MAX_LOWERS};
use crate::predict::{Launcher, predict};

fn names(count: usize) -> Vec<LowerRef> {
    (1..=count).rev().map(|n| LowerRef::new(format!("{n}/fs")).unwrap()).collect()
}

fn lowers(source: LowerSource, count: usize) -> Lowers {
    match source {
        LowerSource::Flat => Lowers::flat("/var/lib/plywood/flat", LowerRef::new("7/fs").unwrap()).unwrap(),
        LowerSource::Layers => Lowers::layers("/var/lib/plywood/layers", names(count)).unwrap(),
    }
}

fn request(source: LowerSource, count: usize) -> Request {
    let range = IdRange { start: 0x7000_0000, length: 65_536 };
    let snapshot = "/var/lib/plywood/snapshots/9";
    Request::new(
        lowers(source, count),
        IdMap::from_ranges(range, range),
        format!("{snapshot}/fs"),
        format!("{snapshot}/work"),
        "/run/plywood/tmp/9",
    )
}

fn forced(mechanism: Mechanism, source: LowerSource, count: usize, passes: u32) -> Request {
    Request { choice: Choice::Forced(mechanism), passes, ..request(source, count) }
}

fn no(reason: &str) -> Answer {
    Answer::No { reason: reason.to_owned() }
}

/// Linux 6.1: no layers one by one, none as descriptors.
fn linux_6_1() -> Capabilities {
    Capabilities {
        append_layers: no("fsconfig(5, FSCONFIG_SET_STRING, \"lowerdir+\", ...) = -1 EINVAL"),
        detached: no("fsconfig(5, FSCONFIG_SET_FD, \"lowerdir+\", ...) = -1 EOPNOTSUPP"),
        idmapped_overlay: no("fsconfig(5, FSCONFIG_SET_FD, \"lowerdir+\", ...) = -1 EOPNOTSUPP"),
        ..Capabilities::assumed()
    }
}

#[test]
fn every_mechanism_and_lower_source() {
    for mechanism in Mechanism::ALL {
        for source in LowerSource::ALL {
            let plan = plan(&forced(mechanism, source, 3, 1), &Capabilities::assumed()).unwrap();
            insta::assert_snapshot!(format!("{mechanism}-{source}"), format!("{plan:#}"));
        }
    }
}

#[test]
fn two_passes_throw_the_first_overlay_away() {
    for mechanism in [Mechanism::CommonParent, Mechanism::PerLayer] {
        let plan = plan(&forced(mechanism, LowerSource::Layers, 2, 2), &Capabilities::assumed()).unwrap();
        insta::assert_snapshot!(format!("{mechanism}-twice"), format!("{plan:#}"));
    }
}

#[test]
fn an_old_kernel_takes_all_layers_in_one_string() {
    let plan = plan(&request(LowerSource::Layers, 3), &linux_6_1()).unwrap();
    assert_eq!(plan.mechanism, Mechanism::Private);
    insta::assert_snapshot!("private-linux-6.1", format!("{plan:#}"));
}

#[test]
fn a_kernel_without_detached_clones_gets_a_directory_to_bind() {
    let capabilities = Capabilities {
        mount_api: no("open_tree(...) = -1 ENOSYS"),
        private: no("open_tree(...) = -1 ENOSYS"),
        detached: no("open_tree(...) = -1 ENOSYS"),
        ..linux_6_1()
    };
    let request = Request { attach: Some("/run/plywood/rootfs".into()), ..request(LowerSource::Flat, 1) };
    insta::assert_snapshot!("copy-bind", plan(&request, &capabilities).unwrap());
}

#[test]
fn many_layers_are_shown_once() {
    let plan =
        plan(&forced(Mechanism::PerLayer, LowerSource::Layers, 50, 1), &Capabilities::assumed()).unwrap();
    insta::assert_snapshot!("per-layer-50", plan);
}

#[test]
fn the_best_that_works_is_chosen_and_the_rest_explained() {
    let mut capabilities = Capabilities { idmapped_overlay: no("EINVAL"), ..Capabilities::assumed() };
    let chosen = capabilities.choose();
    assert_eq!(chosen.mechanism, Mechanism::Detached);
    assert_eq!(
        chosen.passed_over,
        [(
            Mechanism::IdmappedOverlay,
            "it needs an overlay mount that can be idmapped (Linux 7.3); EINVAL".to_owned()
        )]
    );
    capabilities.detached = Answer::Error { message: "EPERM".to_owned() };
    let chosen = capabilities.choose();
    assert_eq!(chosen.mechanism, Mechanism::Private);
    assert!(chosen.passed_over[1].1.contains("could not be tried: EPERM"), "{chosen:?}");
    capabilities.private = no("EINVAL");
    assert_eq!(capabilities.choose().mechanism, Mechanism::Copy);
}

#[test]
fn a_forced_mechanism_that_does_not_work_says_why() {
    for mechanism in [Mechanism::IdmappedOverlay, Mechanism::Detached] {
        let error = plan(&forced(mechanism, LowerSource::Flat, 1, 1), &linux_6_1()).unwrap_err();
        assert!(matches!(error, PlanError::Unsupported { .. }));
        assert!(error.to_string().ends_with("= -1 EOPNOTSUPP"), "{error}");
    }
}

#[test]
fn five_hundred_layers_and_no_more() {
    let plan = plan(&request(LowerSource::Layers, MAX_LOWERS), &Capabilities::assumed()).unwrap();
    assert_eq!((plan.layers, plan.mount_ops().total()), (500, 0));
    let error = Lowers::layers("/layers", names(501)).unwrap_err();
    assert_eq!(error, LowersError::TooMany { count: 501 });
    assert!(error.to_string().contains("501 layers"));
    // The remedy is nothing that this program would have to know.
    assert!(error.to_string().contains("squash them") && !error.to_string().contains("plywood"), "{error}");
    assert_eq!(Lowers::layers("/layers", vec![]).unwrap_err(), LowersError::None);
}

#[test]
fn names_cannot_leave_the_parent() {
    for name in ["", "..", "a/../b", "/a", "./a"] {
        assert!(LowerRef::new(name).is_err(), "{name:?}");
    }
    assert!(Lowers::layers("layers", names(1)).is_err(), "relative parent");
}

#[test]
fn options_are_never_cut() {
    // 500 short names fit the page of an old kernel, 500 long ones do not.
    assert!(plan(&request(LowerSource::Layers, MAX_LOWERS), &linux_6_1()).is_ok());
    let long: Vec<_> = (0..500).map(|n| LowerRef::new(format!("layer-{n}/fs")).unwrap()).collect();
    let mut request = request(LowerSource::Layers, 1);
    request.lowers = Lowers::layers("/layers", long).unwrap();
    let error = plan(&request, &linux_6_1()).unwrap_err();
    assert!(matches!(error, PlanError::OptionsTooLong { layers: 500, .. }), "{error}");
}

/// The look of an extra pass has the writable directory as one more layer, the 501st, and the kernel said EINVAL.
#[test]
fn a_look_needs_room_for_one_more_layer() {
    for mechanism in [Mechanism::CommonParent, Mechanism::PerLayer] {
        for found in [Capabilities::assumed(), linux_6_1()] {
            let of = |layers, passes| plan(&forced(mechanism, LowerSource::Layers, layers, passes), &found);
            assert_eq!(of(MAX_LOWERS, 2), Err(PlanError::NoRoomToLook { layers: MAX_LOWERS }));
            for (layers, passes) in [(MAX_LOWERS, 1), (MAX_LOWERS - 1, 2)] {
                assert!(!matches!(of(layers, passes), Err(PlanError::NoRoomToLook { .. })), "{mechanism}");
            }
        }
    }
}

#[test]
fn paths_the_options_cannot_carry_are_refused() {
    for (upper, long) in [("/var/lib/a,b/fs".to_owned(), false), (format!("/{}", "a".repeat(300)), true)] {
        let request = Request { upper: upper.into(), ..forced(Mechanism::Private, LowerSource::Flat, 1, 1) };
        let error = plan(&request, &Capabilities::assumed()).unwrap_err();
        assert_eq!(matches!(error, PlanError::PathTooLong { .. }), long, "{error}");
        // Descriptors carry any name.
        let request = Request { choice: Choice::Forced(Mechanism::Detached), ..request };
        assert!(plan(&request, &Capabilities::assumed()).is_ok());
    }
}

#[test]
fn requests_without_sense_are_refused() {
    let good = request(LowerSource::Flat, 1);
    let plan = |request: &Request| plan(request, &Capabilities::assumed()).unwrap_err();
    assert_eq!(plan(&Request { passes: 0, ..good.clone() }), PlanError::NoPass);
    assert_eq!(plan(&Request { idmap: IdMap::default(), ..good.clone() }), PlanError::NoRoot);
    assert!(matches!(plan(&Request { work: "work".into(), ..good }), PlanError::Relative { .. }));
}

#[test]
fn predictions_are_what_plans_count() {
    for mechanism in Mechanism::ALL {
        for (layers, passes) in [(1, 1), (50, 1), (50, 2), (7, 3)] {
            let planned =
                plan(&forced(mechanism, LowerSource::Layers, layers, passes), &Capabilities::assumed())
                    .unwrap();
            let predicted = predict(Launcher::Plywood { mechanism, passes: passes as usize }, layers);
            let mut launch = predicted.users + predicted.rootfs;
            launch.attach -= 1; // the rootfs, which this plan leaves detached
            assert_eq!(planned.mount_ops(), launch, "{mechanism}, {layers} layers, {passes} passes");
        }
    }
}
