//! A storm made up to look like a real one: an incident, its mitigations and the default, on a machine with sixteen CPUs.

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use plywood_node::lockbench::{LockKind, Matrix, Point, Quantiles, Share};
use plywood_storm::arm::{Arm, LauncherKind, UserNs};
use plywood_storm::harness::Pace;
use plywood_storm::record::{End, Host, Launch, Line, MountOps, Round, Run, VERSION, Watcher};

const CONTAINERS: usize = 100;

/// SplitMix64, seeded: the page is the same every time.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About 1, never far below, sometimes far above.
    fn around(&mut self, spread: f64) -> f64 {
        (1.0 - spread * 0.7) - spread * (1.0 - self.uniform()).ln()
    }
}

fn arm(mechanism: Mechanism, lower: LowerSource, passes: u32, layers: usize, concurrency: usize) -> Arm {
    Arm {
        launcher: LauncherKind::Assembly,
        mechanism: Some(mechanism),
        lower: Some(lower),
        snapshotter: None,
        userns: UserNs::Private,
        passes,
        layers,
        containers: CONTAINERS,
        concurrency,
        admission: None,
        one_cache: false,
    }
}

fn arms() -> Vec<Arm> {
    let loads = [(50, 1), (50, 8), (50, 32), (50, 100), (10, 100), (1, 100)];
    let ways = [
        (Mechanism::PerLayer, LowerSource::Layers, 2),
        (Mechanism::CommonParent, LowerSource::Layers, 2),
        (Mechanism::Detached, LowerSource::Layers, 1),
        (Mechanism::Detached, LowerSource::Flat, 1),
    ];
    loads
        .into_iter()
        .flat_map(|(layers, at_once)| {
            ways.map(|(mechanism, lower, passes)| arm(mechanism, lower, passes, layers, at_once))
        })
        .collect()
}

/// Milliseconds of one launch that nobody disturbs, and mount operations (any namespace, the host's).
fn cost(arm: &Arm) -> (f64, u64, u64) {
    let layers = arm.layers as f64;
    let passes = u64::from(arm.passes);
    match (arm.mechanism.unwrap(), arm.lower.unwrap()) {
        (Mechanism::PerLayer, _) => {
            let ops = passes * (arm.layers as u64 + 1);
            (0.5 + 0.26 * layers, ops, ops)
        }
        (Mechanism::CommonParent, _) => (0.9 + 0.035 * layers, passes * 2, passes * 2),
        (_, LowerSource::Layers) => (0.5 + 0.008 * layers, 1, 0),
        (_, LowerSource::Flat) => (0.55, 1, 0),
    }
}

fn round(position: usize, number: u32, arm: &Arm, random: &mut Random, lines: &mut Vec<Line>) {
    let (each, ops, host_ops) = cost(arm);
    let at_once = arm.concurrency as f64;
    // Sixteen CPUs help; what is serialised does not, and contention adds to it.
    let waits = each * (0.15 + 0.006 * at_once * (ops as f64).sqrt() / 4.0);
    let wall_ms = (each * CONTAINERS as f64 / at_once.min(16.0) + waits * CONTAINERS as f64 * 0.2)
        * random.around(0.05)
        * if position == 5 && number == 6 { 1.9 } else { 1.0 };
    for container in 0..CONTAINERS {
        let queued = wall_ms * container as f64 / CONTAINERS as f64;
        let due_ms = (queued - wall_ms * at_once / CONTAINERS as f64).max(0.0);
        let launch_ms = (queued - due_ms + each) * random.around(0.15);
        let failed = (launch_ms > 560.0).then(|| "took longer than 560 ms".to_owned());
        lines.push(Line::Launch(Launch {
            arm: position,
            round: number,
            container,
            due_ms,
            launch_ms,
            waited_ms: 0.0,
            late: failed.is_some(),
            failed,
        }));
    }
    let busy = host_ops as f64 * at_once.sqrt() / 10.0;
    lines.push(Line::Round(Box::new(Round {
        arm: position,
        round: number,
        wall_ms,
        removed_ms: wall_ms * 1.4,
        mount_ops: MountOps {
            attach: Some(ops * CONTAINERS as u64),
            detach: Some(ops * CONTAINERS as u64),
            host_attach: host_ops * CONTAINERS as u64,
            host_detach: host_ops * CONTAINERS as u64,
            exact: true,
        },
        mount_table_peak: 34 + (host_ops * arm.concurrency as u64 / 3) as usize,
        health_ms: (0..40).map(|_| (0.4 + busy * 2.0 * random.around(0.8), 100.0)).collect(),
        path_walk_us: (0..30_i32)
            .map(|bin| {
                let us = 0.8 * 1.5_f64.powi(bin / 2);
                (us, (1e6 / us.powf(3.2 - (busy / 40.0).min(1.4))) as u64)
            })
            .collect(),
        watcher: Watcher {
            cpu_ms: 0.5 + busy * 3.0,
            wakeups: host_ops * 11,
            lag_max_ms: 0.8 + busy * 3.0 * random.around(0.3),
        },
        machine_cpu_ms: wall_ms * 12.0,
        storm_cpu_ms: wall_ms * 11.5,
        measuring_cpu_ms: wall_ms * 0.05,
        context_switches: (wall_ms * 40.0) as u64,
    })));
}

fn locks(random: &mut Random) -> Vec<Line> {
    let mut lines = Vec::new();
    for lock in [LockKind::Cas, LockKind::Mcs] {
        for (placement, slower) in [("one cache", 1.0), ("across caches", 2.4), ("SMT siblings", 0.7)] {
            for threads in [1_usize, 2, 4, 8, 16] {
                let n = threads as f64;
                let p50 =
                    14.0 + slower * 21.0 * (n - 1.0) * if lock == LockKind::Cas { n.sqrt() } else { 1.0 };
                let p50 = p50 * random.around(0.04);
                lines.push(Line::LockPoint(Box::new(Point {
                    lock,
                    placement: placement.into(),
                    threads,
                    op_ns: Quantiles { p50, p90: p50 * 1.6, p99: p50 * 3.1, max: p50 * 60.0 },
                    ops_per_s: n * 1e9 / p50,
                    fairness: 0.97,
                    share: Share { min: 0.9 / n, max: 1.1 / n },
                    contenders: threads,
                    beside: None,
                    batch: 1,
                    oversubscribed: false,
                    ops_per_s_rounds: vec![n * 1e9 / p50; 5],
                })));
            }
        }
    }
    let cpus: Vec<u32> = (0..16).collect();
    let ns = |a: u32, b: u32| match (a, b) {
        _ if a == b => None,
        _ if a / 2 == b / 2 => Some(9.0),
        _ if a / 8 == b / 8 => Some(38.0 + f64::from((a * 7 + b * 7) % 9)),
        _ => Some(126.0 + f64::from((a * 5 + b * 5) % 21)),
    };
    let ns = cpus.iter().map(|a| cpus.iter().map(|b| ns(*a, *b)).collect()).collect();
    lines.push(Line::Matrix(Box::new(Matrix { cpus, ns, skipped: Vec::new() })));
    lines
}

/// The whole record.
pub(super) fn storm() -> Vec<Line> {
    let mut random = Random(5);
    let arms = arms();
    let repeat = 10;
    let host = Host {
        kernel: "6.18.3".into(),
        cpu_model: "Imaginary CPU 9000, 3.1 GHz".into(),
        cpus: 16,
        sockets: Some(1),
        numa_nodes: Some(1),
        threads_per_core: Some(2),
        llc_domains: Some(2),
        virtualised: None,
        filesystem: "ext4".into(),
        mounts: 34,
        load: 0.21,
        memory_bytes: 64 << 30,
        versions: [("runc".to_owned(), "1.3.3".to_owned())].into(),
        pinned: None,
    };
    let command = "plywood storm --launcher assembly --mechanism per-layer,common-parent,detached --lower layers,flat \
                   --layers 1,10,50 --concurrency 1,8,32,100 --containers 100 --passes 1,2 --repeat 10 --raw storm.jsonl";
    let run = Run {
        version: VERSION,
        plywood: env!("CARGO_PKG_VERSION").into(),
        command: command.split(' ').map(str::to_owned).collect(),
        started_at_ms: 1_763_726_400_000,
        image: "generated: 50 layers of 20 files".into(),
        arms: arms.clone(),
        repeat,
        timeout_ms: 560.0,
        pace: Pace::default(),
        hold_ms: 0.0,
        program: Vec::new(),
        host,
    };
    let mut lines = vec![Line::Run(Box::new(run))];
    for number in 0..=repeat {
        for (position, arm) in arms.iter().enumerate() {
            round(position, number, arm, &mut random, &mut lines);
        }
    }
    lines.extend(locks(&mut random));
    lines.push(Line::End(End { complete: true, reason: None }));
    lines
}

/// Names that try to leave the page's text.
pub(super) const HOSTILE: &str =
    "\"><script>document.title='taken'</script><img src=x onerror=alert(1)>&amp;'`\u{202e}]]>-->";

/// The same, cut off, with hostile text wherever the record has text, and hostile numbers.
pub(super) fn hostile() -> Vec<Line> {
    let mut lines = storm();
    lines.truncate(9 * lines.len() / 10);
    for line in &mut lines {
        match line {
            Line::Run(run) => {
                let long = format!("{HOSTILE}{}", "very-long-name/".repeat(60));
                run.image.clone_from(&long);
                run.command = vec![long.clone(), HOSTILE.into()];
                run.plywood = HOSTILE.into();
                run.host.kernel = HOSTILE.into();
                run.host.cpu_model.clone_from(&long);
                run.host.filesystem = HOSTILE.into();
                run.host.virtualised = Some(HOSTILE.into());
                run.host.pinned = Some(HOSTILE.into());
                run.host.versions.insert(HOSTILE.into(), long.clone());
                run.started_at_ms = u64::MAX;
                run.host.load = f64::NAN;
                run.arms[3].snapshotter = Some(long);
            }
            Line::Launch(launch) if launch.container == 7 => launch.failed = Some(HOSTILE.into()),
            Line::Launch(launch) if launch.container == 8 => launch.launch_ms = f64::INFINITY,
            Line::Round(round) if round.arm == 2 => {
                round.health_ms = vec![(1e11, 1e11), (f64::NAN, 1.0), (-1.0, f64::NAN)]
            }
            Line::LockPoint(point) => point.placement = HOSTILE.into(),
            _ => {}
        }
    }
    lines
}
