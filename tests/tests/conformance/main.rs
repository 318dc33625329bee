//! One suite of behaviours, run against every IO: what a user may rely on whatever carries the calls.
#![allow(clippy::unwrap_used)]

mod backend;
mod broadcast;
mod calls;
mod cancellation;
mod closing;
mod codecs;
mod dedupe;
mod group;
mod no_workers;
mod probe;

/// Runs each behaviour against each backend, within a time limit.
macro_rules! conformance {
    ($($module:ident :: $behaviour:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                tests::within(crate::LIMIT, crate::$module::$behaviour::<crate::backend::Memory>()).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                tests::within(crate::LIMIT, crate::$module::$behaviour::<crate::backend::Redis>()).await;
            })+
        }
    };
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

conformance! {
    calls::a_call_returns_what_the_method_returned,
    calls::a_services_own_error_arrives_typed,
    calls::faults_are_typed_and_the_server_carries_on,
    calls::ten_thousand_interleaved_calls_get_their_own_answers,
    calls::text_and_bytes_arrive_unchanged,
    calls::the_context_tells_who_calls_and_what_is_left,
    calls::optional_arguments_may_be_left_out,
    calls::a_call_without_a_reply_ends_at_its_deadline,
    calls::an_expired_call_is_not_run,
    calls::a_late_reply_is_ignored,
    calls::a_notification_is_run_and_not_answered,
    calls::a_handler_that_panics_when_it_is_dropped_gives_its_slot_back,
    calls::a_failed_notification_is_tried_again,
    calls::no_more_handlers_run_at_once_than_allowed,
    calls::arguments_that_are_too_large_are_not_sent,
    calls::a_server_refuses_arguments_that_are_too_large_for_it,
    calls::a_result_that_is_too_large_ends_its_call,
    codecs::whatever_works_in_json_works_in_messagepack,
    codecs::clients_of_different_codecs_share_a_worker,
    codecs::a_result_is_kept_in_the_codec_of_the_call_that_ran,
    codecs::broadcast_calls_may_be_in_messagepack,
    group::each_call_is_run_by_one_worker_and_all_get_a_share,
    group::calls_made_before_the_first_worker_are_run,
    group::a_worker_takes_no_more_than_it_has_room_for,
    group::nested_calls_get_through_at_concurrency_one,
    group::one_worker_of_each_group_runs_a_call,
    group::a_worker_runs_its_own_calls,
    group::a_group_that_lacks_a_method_does_not_speak_for_one_that_has_it,
    group::calls_to_a_session_reach_that_session_alone,
    group::a_session_that_is_gone_is_reported,
    cancellation::a_dropped_call_ends_its_handler,
    cancellation::a_dropped_call_that_has_not_started_never_runs,
    cancellation::every_subscriber_drops_a_dropped_call,
    cancellation::a_handler_that_panics_when_its_call_is_dropped_is_settled,
    cancellation::a_method_marked_no_cancel_runs_to_its_end,
    cancellation::a_call_that_is_not_aborted_goes_on,
    cancellation::a_dropped_call_to_a_session_ends_its_handler,
    group::a_queue_that_is_too_long_refuses_more_until_it_is_shorter,
    no_workers::a_call_that_nobody_serves_is_refused,
    no_workers::a_broadcast_call_that_nobody_serves_is_refused,
    no_workers::a_restart_of_the_only_worker_fails_no_call,
    no_workers::without_fail_fast_calls_wait_for_servers,
    no_workers::a_notification_waits_for_servers,
    dedupe::calls_with_one_key_run_once_and_get_one_result,
    dedupe::a_result_is_forgotten_after_its_window,
    dedupe::the_methods_own_error_is_a_result_and_a_panic_is_none,
    dedupe::a_key_may_be_held_for_as_long_as_a_call_may_take,
    dedupe::a_subscriber_holds_no_more_repeats_than_its_queue,
    dedupe::a_call_without_a_key_is_run,
    dedupe::a_dropped_call_gives_its_key_up,
    dedupe::a_repeated_notification_is_not_run,
    dedupe::every_subscriber_and_every_group_runs_a_key_once,
    broadcast::every_subscriber_runs_a_call_and_the_first_answer_wins,
    broadcast::every_subscriber_runs_a_notification,
    broadcast::nobody_hears_oneself_unless_asked_for,
    broadcast::a_method_that_nobody_serves_is_met_with_silence,
    broadcast::a_full_queue_drops_the_oldest_and_their_callers_are_told,
    broadcast::a_refusal_does_not_beat_an_answer,
    broadcast::a_subscriber_that_closes_does_not_beat_an_answer,
    broadcast::a_subscriber_does_not_wait_for_its_own_answer,
    closing::closing_ends_waiting_calls,
    closing::closing_lets_handlers_finish,
    closing::handlers_that_outlast_the_grace_are_dropped,
    closing::a_handler_that_blocks_its_thread_does_not_hold_up_closing,
    closing::a_session_that_closes_takes_no_more_calls,
    closing::what_outlasts_the_grace_is_run_by_another_worker,
    closing::dropping_the_last_handle_ends_the_channel,
    closing::a_signal_closes_those_who_obey,
    closing::services_with_the_same_names_are_refused,
}
