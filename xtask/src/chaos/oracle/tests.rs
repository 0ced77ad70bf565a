use super::*;

fn set(pods: &[PodId]) -> Endpoints {
    Arc::new(pods.iter().copied().collect())
}

fn answer(pod: PodId) -> Observed {
    Observed::Answer { pod, service: 0 }
}

fn refusal() -> Observed {
    Observed::Error(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

fn classify_now(oracle: &Oracle, observed: &Observed) -> Verdict {
    let now = Instant::now();
    oracle.classify(0, now, now, observed)
}

fn oracle_with(pods: &[PodId]) -> Oracle {
    let oracle = Oracle::new(1, 4);
    oracle.set(0, set(pods));
    oracle.confirm(Instant::now());
    oracle
}

#[test]
fn an_endpoint_may_answer_until_its_removal_is_confirmed() {
    let oracle = oracle_with(&[1]);
    assert_eq!(classify_now(&oracle, &answer(1)), Verdict::Correct);
    oracle.set(0, set(&[2]));
    assert_eq!(classify_now(&oracle, &answer(1)), Verdict::StaleEndpoint);
    assert_eq!(classify_now(&oracle, &answer(2)), Verdict::Correct);
    let before = Instant::now();
    oracle.confirm(Instant::now());
    assert!(matches!(classify_now(&oracle, &answer(1)), Verdict::Misrouted(_)));
    let late = oracle.classify(0, before, Instant::now(), &answer(1));
    assert_eq!(late, Verdict::StaleEndpoint, "the call began before the removal was confirmed");
}

#[test]
fn an_answer_for_another_service_is_misrouted() {
    let oracle = oracle_with(&[1]);
    let observed = Observed::Answer { pod: 1, service: 3 };
    assert!(matches!(classify_now(&oracle, &observed), Verdict::Misrouted(_)));
}

#[test]
fn a_refusal_is_correct_only_without_endpoints() {
    let oracle = oracle_with(&[1]);
    assert!(matches!(classify_now(&oracle, &refusal()), Verdict::Failed(_)));
    oracle.set(0, set(&[]));
    oracle.confirm(Instant::now());
    assert_eq!(classify_now(&oracle, &refusal()), Verdict::Refused);
    assert!(matches!(classify_now(&oracle, &answer(1)), Verdict::Misrouted(_)));
}

#[test]
fn a_dead_endpoint_excuses_a_refusal_but_not_an_untranslated_call() {
    let oracle = oracle_with(&[1, 2]);
    oracle.pod_ends(3);
    assert!(
        matches!(classify_now(&oracle, &refusal()), Verdict::Failed(_)),
        "pod 3 is no endpoint"
    );
    oracle.pod_ends(2);
    assert_eq!(classify_now(&oracle, &refusal()), Verdict::EndpointDead);
    let untranslated = Observed::Error(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
    assert!(matches!(classify_now(&oracle, &untranslated), Verdict::Failed(_)));
}

#[test]
fn damage_excuses_calls_that_overlap_with_it() {
    let oracle = oracle_with(&[1]);
    oracle.damage_begins();
    assert_eq!(classify_now(&oracle, &refusal()), Verdict::DuringDamage);
    oracle.damage_ends();
    assert!(matches!(classify_now(&oracle, &refusal()), Verdict::Failed(_)));
}

#[test]
fn while_calls_are_bypassed_kube_proxys_answer_of_no_endpoints_is_a_refusal() {
    let oracle = oracle_with(&[]);
    let no_endpoints = || Observed::Error(io::ErrorKind::InvalidData.into());
    assert!(matches!(classify_now(&oracle, &no_endpoints()), Verdict::Failed(_)));
    oracle.bypass_begins();
    assert_eq!(classify_now(&oracle, &no_endpoints()), Verdict::Refused);
    oracle.set(0, set(&[1]));
    oracle.confirm(Instant::now());
    assert!(matches!(classify_now(&oracle, &no_endpoints()), Verdict::Failed(_)));
    oracle.bypass_ends();
}

#[test]
fn a_socket_may_leave_an_endpoint_that_was_removed_and_added_again() {
    let oracle = oracle_with(&[1, 2]);
    let before = Instant::now();
    assert!(oracle.must_have_kept(0, 1, before, Instant::now()));
    oracle.set(0, set(&[2]));
    oracle.set(0, set(&[1, 2]));
    oracle.confirm(Instant::now());
    assert!(!oracle.must_have_kept(0, 1, before, Instant::now()));
    assert!(oracle.must_have_kept(0, 2, before, Instant::now()));
}
