//! A test for each case, on a subject.

use postrider_conformance::{Subject, Verdict, case, run};

/// Runs one case and shows what became of it.
pub(crate) async fn passes(name: &str, subject: impl Subject) {
    let case = case(name).expect("the case is in the list");
    let verdict = run(case, &subject).await;
    println!("{} on {}: {verdict}", case.name, subject.name());
    assert!(
        !matches!(verdict, Verdict::Failed { .. }),
        "{} on {}: {verdict}",
        case.name,
        subject.name()
    );
}

/// A test for each case. `$subject` is made anew for each.
macro_rules! cases {
    ($subject:expr) => {
        crate::support::cases!($subject;
            c2_no_ack_redelivers
            c9_redrive_reaches_only_its_subscription
            c11_lease_lost_cancels
            d1_order_no_fault
            d2_order_under_retry
            d3_other_keys_flow
            d4_order_across_crash
            d5_order_across_rebalance
        );
    };
    ($subject:expr; $($case:ident)+) => {
        #[test]
        fn every_case_has_a_test() {
            let cases: Vec<&str> = postrider_conformance::CASES.iter().map(|c| c.name).collect();
            assert_eq!(cases, [$(stringify!($case)),+]);
        }
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(subject) = $subject {
                    crate::support::passes(stringify!($case), subject).await;
                }
            }
        )+
    };
}
pub(crate) use cases;
