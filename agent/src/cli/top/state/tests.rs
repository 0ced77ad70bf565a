use super::*;
use crate::{
    cli::top::sample::{BackendSample, Detail, Opened, Totals},
    model::{
        object::{ObjectName, Protocol},
        plan::TrafficClass,
    },
};

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        service: ObjectName::new("shop", name),
        port_name: "web".into(),
        protocol: Protocol::Tcp,
    }
}

fn sample(seconds: u64, services: &[(&str, u64)]) -> Sample {
    let totals = |opened| Totals { opened, ..Totals::default() };
    Sample {
        at: Duration::from_secs(seconds),
        node: Node { name: "node-a".to_owned(), agent_runs: true, detail: Detail::All },
        services: Some(
            services.iter().map(|(name, opened)| (key(name), totals(*opened))).collect(),
        ),
        opened: None,
    }
}

fn backend(address: &str, totals: Totals) -> BackendSample {
    let class = TrafficClass::SameNode;
    BackendSample { address: address.parse().unwrap(), class, totals }
}

fn state() -> State {
    let mut state = State::new(Duration::from_secs(2));
    state.apply(sample(0, &[("cart", 0), ("ship", 0)]));
    state.apply(sample(2, &[("cart", 10), ("ship", 4)]));
    state
}

fn press(state: &mut State, keys: &str) -> Reaction {
    let mut last = Reaction::None;
    for character in keys.chars() {
        let code = match character {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '↓' => KeyCode::Down,
            other => KeyCode::Char(other),
        };
        last = state.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
    last
}

fn names(state: &State) -> Vec<&str> {
    state.table().shown().map(|row| row.name.as_str()).collect()
}

#[test]
fn enter_opens_the_selected_service_and_esc_goes_back() {
    let mut state = state();
    assert_eq!(press(&mut state, "↓\n"), Reaction::Read);
    assert_eq!(state.opened(), Some(&key("ship")));
    let backends = |of: &str, address: &str| Sample {
        services: None,
        opened: Some(Opened {
            key: key(of),
            backends: vec![backend(address, Totals::default())],
            clients: vec![],
        }),
        ..sample(3, &[])
    };
    state.apply(backends("ship", "10.0.0.1:80"));
    // One that was read for the service before.
    state.apply(backends("cart", "10.0.0.2:80"));
    assert_eq!(names(&state), ["10.0.0.1:80"]);
    assert_eq!(press(&mut state, "\n"), Reaction::None, "a backend cannot be opened");
    assert_eq!(press(&mut state, "\u{1b}"), Reaction::Clear);
    assert_eq!(names(&state), ["shop/cart:web/TCP", "shop/ship:web/TCP"]);
}

#[test]
fn clients_follow_the_backends_and_do_not_count_in_the_sums() {
    let mut state = state();
    press(&mut state, "\n");
    let totals = |opened| Totals { opened, active: 1, ..Totals::default() };
    for seconds in [0, 2] {
        let opened = Opened {
            key: key("cart"),
            backends: vec![backend("10.0.0.1:80", totals(3 * seconds))],
            clients: vec![
                ("a".to_owned(), totals(seconds)),
                ("z (Deployment)".to_owned(), totals(2 * seconds)),
            ],
        };
        state.apply(Sample { services: None, opened: Some(opened), ..sample(seconds, &[]) });
    }
    assert_eq!(names(&state), ["10.0.0.1:80", "from z (Deployment)", "from a"]);
    let (active, rates) = state.table().sums();
    assert_eq!((active, rates.unwrap().opened, state.table().len()), (1, 3.0, 1));
    press(&mut state, "r");
    assert_eq!(names(&state), ["10.0.0.1:80", "from a", "from z (Deployment)"]);
}

#[test]
fn a_paused_state_keeps_its_rows_and_catches_up_later() {
    let mut state = state();
    press(&mut state, " ");
    state.apply(sample(4, &[("cart", 1000), ("ship", 4)]));
    let rate = |state: &State| state.table().shown().next().unwrap().rates.unwrap().opened;
    assert_eq!((state.motion, rate(&state)), (Motion::Paused, 5.0));
    press(&mut state, " ");
    state.apply(sample(12, &[("cart", 110), ("ship", 4)]));
    assert_eq!((state.motion, rate(&state)), (Motion::Live, 10.0), "100 in the 10 s since then");
}

#[test]
fn a_filter_is_typed_and_removed() {
    let mut state = state();
    press(&mut state, "/SHIq\u{8}");
    assert_eq!((state.mode, names(&state)), (Mode::EditFilter, vec!["shop/ship:web/TCP"]));
    press(&mut state, "\n");
    assert_eq!((state.mode, state.arrangement.filter.as_str()), (Mode::Browse, "SHI"));
    press(&mut state, "\u{1b}");
    assert_eq!(names(&state).len(), 2);
    press(&mut state, "/zzz");
    assert_eq!(names(&state).len(), 0);
    assert_eq!(press(&mut state, "\n\n"), Reaction::None, "nothing is selected");
    press(&mut state, "/\u{1b}");
    assert_eq!(names(&state).len(), 2);
}

#[test]
fn q_and_ctrl_c_quit_where_they_are_not_text() {
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for mode in [Mode::Browse, Mode::Help, Mode::EditFilter] {
        let mut state = State { mode, ..state() };
        assert_eq!(state.press(ctrl_c), Reaction::Quit, "{mode:?}");
        let expected = if mode == Mode::EditFilter { Reaction::None } else { Reaction::Quit };
        assert_eq!(press(&mut state, "q"), expected, "{mode:?}");
    }
    let mut state = state();
    press(&mut state, "?");
    assert_eq!(state.mode, Mode::Help);
    assert_eq!(press(&mut state, "x"), Reaction::Clear);
    assert_eq!(state.mode, Mode::Browse);
}

#[test]
fn a_failed_reading_leaves_the_rows_and_the_next_sample_removes_the_error() {
    let mut state = state();
    state.fail("gone".to_owned());
    assert_eq!((state.error.as_deref(), names(&state).len()), (Some("gone"), 2));
    state.apply(sample(4, &[("cart", 10)]));
    assert_eq!((state.error.as_deref(), names(&state).len()), (None, 1));
}
