//! What is measured of packets: the tables that are filled for it, and the cases on them.

use std::{net::Ipv4Addr, path::Path};

use anyhow::Result;

use crate::{
    driver::{Driver, Hook, Run, Tuples},
    frontends::{
        FORWARDED, FORWARDED_TCP6, LEAST_CONNECTIONS, MAGLEV, MAGLEV_TCP6, MAGLEV_UDP, MAGLEV_UDP6, OTHERS, front,
    },
    stage::Stage,
    traffic::{ACK, CLIENTS, FIN_ACK, FRONTEND, NEWCOMERS, PORTS, RST, SYN, Tuple, after},
};

/// The default size of the flow table.
const ORDINARY_TABLE: u32 = 1 << 20;
/// Room for a million flows with as much spare room as should be; an LRU hash needs none.
const LARGE_TABLES: [u32; 2] = [1 << 22, 1 << 21];
const MANY: u32 = 1 << 16;
const MILLION: u32 = 1 << 20;
/// New flows in one measurement.
const NEW: u32 = 1 << 15;
/// Turns of a measurement that changes nothing lasting.
const TURNS: u32 = 1 << 17;
/// Flows that are opened at once.
const CHUNK: u32 = 1 << 18;

/// Of the default size, half full.
const HALF: usize = 0;
/// Of four times the size, with a million flows.
const LARGE: usize = 1;
/// Of the default size, after a quarter more flows were opened than it has room for.
const FULL: usize = 2;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Weir,
    /// Weir over a kernel LRU hash.
    Lru,
    Nat,
    Parse,
    Back,
}

use Subject::{Back, Lru, Nat, Parse, Weir};

impl Subject {
    /// The name in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Weir => "weir",
            Lru => "lru-hash",
            Nat => "stateless-nat",
            Parse => "parse-and-pass",
            Back => "send-back",
        }
    }
}

/// What becomes of a case's packets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sent on in a known flow.
    Known,
    /// Sent on in a known flow, which is another then; the tables are put back before.
    Last,
    /// Sent on in a new flow; the tables are put back before.
    New,
    /// Nobody's.
    Foreign,
}

/// One row of the result.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Which of the stages.
    pub(crate) stage: usize,
    pub(crate) frontend: u32,
    pub(crate) template: Vec<u8>,
    pub(crate) tuples: Tuples,
    pub(crate) turns: u32,
    pub(crate) kind: Kind,
    /// Where it is measured.
    pub(crate) hooks: &'static [Hook],
    /// Who can do it.
    pub(crate) subjects: &'static [Subject],
    /// The most that Weir should cost at XDP, as a multiple of what another does.
    pub(crate) wanted: Option<(Subject, f64)>,
}

impl Case {
    fn new(name: impl Into<String>, kind: Kind, frontend: u32, flags: u8, tuples: Tuples) -> Self {
        Self {
            name: name.into(),
            stage: HALF,
            frontend,
            template: front(frontend).wire.template(flags),
            tuples,
            turns: if matches!(kind, Kind::Known | Kind::Foreign) { TURNS } else { tuples.len() },
            kind,
            hooks: &Hook::ALL,
            subjects: &[Weir],
            wanted: None,
        }
    }

    fn on(self, stage: usize) -> Self {
        Self { stage, turns: self.tuples.len(), ..self }
    }

    /// The driver at tc does not take back what encapsulation has added.
    fn at(self, hooks: &'static [Hook]) -> Self {
        Self { hooks, ..self }
    }

    fn of(self, subjects: &'static [Subject]) -> Self {
        Self { subjects, ..self }
    }

    fn wanted(self, of: Subject, most: f64) -> Self {
        Self { wanted: Some((of, most)), ..self }
    }

    /// The least share of its packets that has to be sent on. Where no bucket has room, many flows are turned away.
    pub(crate) fn least_served(&self) -> f64 {
        match (self.kind, self.stage) {
            (Kind::New, FULL) => 0.1,
            (Kind::New, _) => 0.999,
            _ => 1.0,
        }
    }

    /// The clients of a turn, of whom nobody has heard.
    pub(crate) fn newcomers(&self, turn: u32) -> Vec<Tuple> {
        let front = front(self.frontend);
        let first = after(NEWCOMERS, (self.frontend << 16) + turn * (NEW / PORTS));
        front.wire.clients(NEW, first, front.socket())
    }

    /// Whether the newcomers of a turn have to be taken out of an LRU hash again: one that is full takes others out by itself.
    pub(crate) fn forgets(&self) -> bool {
        self.kind == Kind::New && self.stage != FULL
    }
}

/// Loads the programs over tables of each kind, and opens their flows.
pub(crate) fn stages(driver: &mut Driver, lru: &Path) -> Result<[Stage; 3]> {
    let ordinary = || Stage::new(lru, [ORDINARY_TABLE; 2]);
    let mut stages = [ordinary()?, Stage::new(lru, LARGE_TABLES)?, ordinary()?];
    let [half, large, full] = &mut stages;
    // Together half of the room.
    open(driver, half, MAGLEV, 2 * MANY)?;
    for frontend in [MAGLEV_UDP, MAGLEV_TCP6, MAGLEV_UDP6, LEAST_CONNECTIONS, FORWARDED, FORWARDED_TCP6] {
        open(driver, half, frontend, MANY)?;
    }
    open(driver, large, MAGLEV, MILLION)?;
    open(driver, full, MAGLEV, ORDINARY_TABLE / 4 * 5)?;
    for stage in &mut stages {
        stage.establish()?;
    }
    // In the full one it would make other flows leave, and the kernel does not ask for a flow's state.
    let [half, large, _] = &mut stages;
    half.lru.establish()?;
    large.lru.establish()?;
    Ok(stages)
}

/// Opens so many flows in both tables of a stage. Those that find no room make others leave, none of which was answered yet.
fn open(driver: &mut Driver, stage: &mut Stage, frontend: u32, flows: u32) -> Result<()> {
    let front = front(frontend);
    let template = front.wire.template(SYN);
    for begin in (0..flows).step_by(CHUNK as usize) {
        let first = after(CLIENTS, (frontend << 16) + begin / PORTS);
        let clients = front.wire.clients(CHUNK.min(flows - begin), first, front.socket());
        let tuples = driver.add(&clients)?;
        let run = Run { hook: Hook::Xdp, template: &template, tuples, turns: tuples.len() };
        driver.run(&stage.program(Hook::Xdp)?, run)?;
        if !front.forwards {
            driver.run(&stage.lru.program(Hook::Xdp)?, run)?;
        }
        driver.take_back(tuples);
    }
    Ok(())
}

/// What is measured.
pub(crate) fn all(driver: &mut Driver, stages: &[Stage; 3]) -> Result<Vec<Case>> {
    let mut cases = known(driver, stages)?;
    cases.extend(new(driver)?);
    for (name, frontend) in [("not a frontend", MAGLEV), ("not a frontend, IPv6", MAGLEV_TCP6)] {
        let nobody = std::net::SocketAddrV4::new(FRONTEND, 9);
        let tuples = driver.add(&front(frontend).wire.clients(MANY, CLIENTS, nobody))?;
        let case = Case::new(name, Kind::Foreign, frontend, ACK, tuples).wanted(Parse, 2.0);
        cases.push(case.of(if frontend == MAGLEV { &[Weir, Nat, Parse, Back] } else { &[Weir, Parse, Back] }));
    }
    Ok(cases)
}

/// Packets of flows that are there.
fn known(driver: &mut Driver, [half, large, _]: &[Stage; 3]) -> Result<Vec<Case>> {
    let mut some = |frontend: u32| -> Result<[Tuples; 2]> {
        let [clients, backends] = half.known(frontend);
        let first = |tuples: &[Tuple]| tuples[..tuples.len().min(MANY as usize)].to_vec();
        Ok([driver.add(&first(&clients))?, driver.add(&first(&backends))?])
    };
    let [tcp, replies] = some(MAGLEV)?;
    let ([least, _], [udp, _], [tcp6, _], [udp6, _]) =
        (some(LEAST_CONNECTIONS)?, some(MAGLEV_UDP)?, some(MAGLEV_TCP6)?, some(MAGLEV_UDP6)?);
    let ([there, _], [there6, _]) = (some(FORWARDED)?, some(FORWARDED_TCP6)?);
    let [million, _] = large.known(MAGLEV);
    let million = driver.add(&million)?;
    let case = |name: &str, frontend, tuples| Case::new(name, Kind::Known, frontend, ACK, tuples);
    let last = |name: &str, frontend, tuples, flags| Case::new(name, Kind::Last, frontend, flags, tuples);
    Ok(vec![
        case("established TCP, 1 flow", MAGLEV, tcp.one()).of(&[Weir, Lru, Nat, Parse, Back]).wanted(Lru, 0.7),
        case("established TCP, 64k flows", MAGLEV, tcp).of(&[Weir, Lru, Nat]).wanted(Lru, 0.35),
        case("established TCP, 64k flows, least-connections", LEAST_CONNECTIONS, least)
            .of(&[Weir, Lru])
            .wanted(Lru, 0.85),
        case("established TCP, 1M flows", MAGLEV, million).on(LARGE).of(&[Weir, Lru, Nat]),
        case("reply in established TCP, 64k flows", MAGLEV, replies).of(&[Weir, Lru]),
        case("established TCP over IPv6, 64k flows", MAGLEV_TCP6, tcp6).of(&[Weir, Lru]),
        case("known UDP flow, 64k flows", MAGLEV_UDP, udp).of(&[Weir, Lru, Nat]),
        case("known UDP flow over IPv6, 64k flows", MAGLEV_UDP6, udp6).of(&[Weir, Lru]),
        case("forwarded TCP flow (dsr), 64k flows", FORWARDED, there).at(&[Hook::Xdp]),
        case("forwarded TCP flow (dsr) over IPv6, 64k flows", FORWARDED_TCP6, there6).at(&[Hook::Xdp]),
        last("end of a TCP flow: FIN", MAGLEV, tcp, FIN_ACK),
        last("end of a TCP flow: reset", MAGLEV, tcp, RST),
        last("end of a TCP flow over IPv6: reset", MAGLEV_TCP6, tcp6, RST),
    ])
}

/// Packets that open a flow.
fn new(driver: &mut Driver) -> Result<Vec<Case>> {
    let mut case = |name: String, frontend: u32| -> Result<Case> {
        let nobody = front(frontend).wire.clients(NEW, Ipv4Addr::UNSPECIFIED, front(frontend).socket());
        Ok(Case::new(name, Kind::New, frontend, SYN, driver.add(&nobody)?))
    };
    let mut cases = vec![
        case("new TCP flow, maglev, table half full".to_owned(), MAGLEV)?.of(&[Weir, Lru, Nat]).wanted(Lru, 0.5),
        case("new TCP flow, maglev, table full".to_owned(), MAGLEV)?.on(FULL).of(&[Weir, Lru]).wanted(Lru, 0.3),
        case("new TCP flow over IPv6, maglev".to_owned(), MAGLEV_TCP6)?.of(&[Weir, Lru]),
        case("new UDP flow, maglev".to_owned(), MAGLEV_UDP)?.of(&[Weir, Lru]),
        case("new UDP flow over IPv6, maglev".to_owned(), MAGLEV_UDP6)?.of(&[Weir, Lru]),
    ];
    for frontend in [LEAST_CONNECTIONS].into_iter().chain(OTHERS) {
        cases.push(case(format!("new TCP flow, {}", front(frontend).algorithm()), frontend)?);
    }
    Ok(cases)
}
