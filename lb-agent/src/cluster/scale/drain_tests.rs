use super::*;

fn pods(connections: &[(&str, u64)]) -> Vec<Candidate> {
    let pod = |(name, connections): &(&str, u64)| Candidate {
        name: (*name).to_owned(),
        ready: !name.starts_with("unready"),
        connections: *connections,
        sockets: BTreeSet::new(),
    };
    connections.iter().map(pod).collect()
}

/// A workload that is followed second by second.
struct Scene {
    drain: Drain,
    now: Duration,
    view: View<'static>,
    said: Vec<Note>,
}

impl Scene {
    fn new(set: u32) -> Self {
        let view = View { set, wanted: set, timeout: Duration::from_secs(120), ..View::default() };
        Self { drain: Drain::Idle, now: Duration::from_secs(1000), view, said: Vec::new() }
    }

    /// One look; what is to be set is set.
    fn look(&mut self, seconds: u64, wanted: u32, connections: &[(&str, u64)]) -> Vec<Action> {
        self.now += Duration::from_secs(seconds);
        let candidates = pods(connections);
        let view = View { wanted, candidates: &candidates, ..self.view.clone() };
        let (actions, notes) = self.drain.step(&view, self.now);
        self.said = notes;
        if let Some(Action::Scale { to, .. }) = actions.iter().find(|action| matches!(action, Action::Scale { .. })) {
            self.view.set = *to;
            self.drain.done(self.now);
        }
        actions
    }

    fn victims(&self) -> Vec<&str> {
        self.drain.victims().iter().map(|victim| victim.name.as_str()).collect()
    }
}

fn scale(from: u32, to: u32, mark: &[&str]) -> Vec<Action> {
    vec![Action::Scale { from, to, mark: mark.iter().map(ToString::to_string).collect() }]
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn more_are_wanted_at_once() {
    let mut scene = Scene::new(2);
    assert_eq!(scene.look(0, 2, &[("a", 1), ("b", 1)]), []);
    assert_eq!(scene.look(1, 5, &[("a", 1), ("b", 1)]), scale(2, 5, &[]));
    assert_eq!(scene.drain, Drain::Idle);
}

#[test]
fn who_has_the_fewest_connections_is_drained_marked_and_looked_for() {
    let mut scene = Scene::new(3);
    let busy = [("a", 5), ("b", 2), ("c", 9)];
    assert_eq!(scene.look(0, 2, &busy), []);
    assert_eq!((scene.victims(), scene.said.clone()), (vec!["b"], vec![Note::Draining(strings(&["b"]))]));
    assert_eq!(scene.look(5, 2, &[("a", 1), ("b", 2), ("c", 9)]), [], "b stays the victim, though a has fewer now");
    assert_eq!(scene.look(1, 2, &[("a", 1), ("b", 0), ("c", 9)]), scale(3, 2, &["b"]));
    assert_eq!(scene.look(1, 2, &[("a", 1), ("b", 0), ("c", 9)]), [], "it is on its way");
    assert_eq!(scene.victims(), ["b"], "and gets no new connections meanwhile");
    assert_eq!(scene.look(1, 2, &[("a", 1), ("c", 9)]), []);
    assert_eq!(scene.drain, Drain::Idle);
}

#[test]
fn an_idle_victim_waits_until_every_node_has_heard() {
    let mut scene = Scene::new(2);
    assert_eq!(scene.look(0, 1, &[("a", 0), ("b", 0)]), []);
    assert_eq!(scene.look(2, 1, &[("a", 0), ("b", 0)]), []);
    assert_eq!(scene.look(1, 1, &[("a", 0), ("b", 0)]), scale(2, 1, &["a"]));
}

#[test]
fn connections_are_waited_for_so_long_and_no_longer() {
    let mut scene = Scene::new(2);
    scene.look(0, 1, &[("a", 3), ("b", 4)]);
    assert_eq!(scene.look(119, 1, &[("a", 3), ("b", 4)]), []);
    assert_eq!(scene.look(1, 1, &[("a", 3), ("b", 4)]), scale(2, 1, &["a"]));
    assert_eq!(scene.said, [Note::TimedOut(vec![("a".into(), 3)])]);
}

#[test]
fn load_that_comes_back_cancels_it() {
    let mut scene = Scene::new(2);
    scene.look(0, 1, &[("a", 3), ("b", 4)]);
    assert_eq!(scene.look(1, 2, &[("a", 3), ("b", 4)]), []);
    assert_eq!((scene.drain.clone(), scene.said.clone()), (Drain::Idle, vec![Note::Cancelled(strings(&["a"]))]));
    scene.look(1, 1, &[("a", 3), ("b", 4)]);
    assert_eq!(scene.look(1, 4, &[("a", 3), ("b", 4)]), scale(2, 4, &[]), "and more come");
    let mut scene = Scene::new(2);
    scene.look(0, 1, &[("a", 0), ("b", 4)]);
    scene.look(3, 1, &[("a", 0), ("b", 4)]);
    let raised = scene.look(1, 2, &[("a", 0), ("b", 4)]);
    let unmarked = Action::Unmark(strings(&["a"]));
    assert_eq!(raised, [vec![unmarked], scale(1, 2, &[])].concat(), "it was about to leave");
}

#[test]
fn one_more_or_one_fewer_is_to_go() {
    let mut scene = Scene::new(4);
    let all = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
    scene.look(0, 2, &all);
    assert_eq!(scene.victims(), ["a", "b"]);
    scene.look(1, 3, &all);
    assert_eq!(scene.victims(), ["a"]);
    scene.look(1, 1, &all);
    assert_eq!(scene.victims(), ["a", "b", "c"]);
    assert_eq!(scene.look(2, 1, &[("a", 0), ("b", 0), ("c", 0), ("d", 4)]), [], "the new ones have just heard");
    assert_eq!(scene.look(1, 1, &[("a", 0), ("b", 0), ("c", 0), ("d", 4)]), scale(4, 1, &["a", "b", "c"]));
}

#[test]
fn who_takes_no_connections_goes_first_and_who_never_came_before_all() {
    let mut scene = Scene::new(4);
    scene.look(0, 2, &[("a", 0), ("b", 0), ("unready", 0)]);
    assert_eq!(scene.victims(), ["unready"], "a fourth has no address yet");
    let mut scene = Scene::new(3);
    assert_eq!(scene.look(0, 1, &[("a", 0)]), scale(3, 1, &[]), "nobody is waited for");
}

#[test]
fn a_stateful_set_loses_its_highest_ordinals() {
    let mut scene = Scene::new(3);
    scene.view.ordered = true;
    scene.look(0, 1, &[("db-0", 0), ("db-1", 7), ("db-2", 5)]);
    assert_eq!(scene.victims(), ["db-1", "db-2"]);
    assert_eq!(scene.look(4, 1, &[("db-0", 0), ("db-1", 0), ("db-2", 0)]), scale(3, 1, &[]), "nobody is marked");
}

#[test]
fn nobody_goes_during_a_rollout() {
    let mut scene = Scene::new(2);
    scene.look(0, 1, &[("a", 3), ("b", 4)]);
    scene.view.held = Some("a rollout");
    assert_eq!(scene.look(1, 1, &[("a", 0), ("b", 4)]), []);
    assert_eq!((scene.drain.clone(), scene.said.clone()), (Drain::Idle, vec![Note::Cancelled(strings(&["a"]))]));
    assert_eq!(scene.look(1, 3, &[("a", 3), ("b", 4)]), scale(2, 3, &[]), "more may come");
}

#[test]
fn victims_that_stay_are_told_of_and_kept() {
    let mut scene = Scene::new(2);
    scene.look(0, 1, &[("a", 0), ("b", 4)]);
    scene.look(3, 1, &[("a", 0), ("b", 4)]);
    assert_eq!(scene.look(59, 1, &[("a", 0)]), []);
    assert_eq!(scene.look(1, 1, &[("a", 0)]), [Action::Unmark(strings(&["a"]))]);
    assert_eq!((scene.drain.clone(), scene.said.clone()), (Drain::Idle, vec![Note::Stayed(strings(&["a"]))]));
}

#[test]
fn a_new_leader_goes_on() {
    let now = Duration::from_secs(5);
    let drain = Drain::resume(&strings(&["b", "gone"]), &pods(&[("a", 1), ("b", 2)]), now);
    assert_eq!(drain.victims(), pods(&[("b", 2)]));
    assert_eq!(Drain::resume(&strings(&["gone"]), &pods(&[("a", 1)]), now), Drain::Idle);
}
