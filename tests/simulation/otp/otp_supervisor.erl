%% Runs scenarios through OTP's own supervisor and writes down what happened, one line an event.
%%
%%   erl -noshell +S 1:1 -eval '...compile and load this file..., otp_supervisor:main(In, Out).'
%%
%% `In` holds one term a scenario: {Clock, Root, Batches}.
%%   Clock    real: the installed supervisor as it is; at_hand: the same code with one call replaced, that which
%%            reads the time.
%%   Root     {sup, Id, Strategy, Intensity, Period, AutoShutdown, Children}
%%   Children {worker, Id, Restart, Shutdown, Significant, Stubborn} or {sup, Id, Restart, Significant, Sup}
%%   Batches  {advance, Seconds} | {refuse, Id, Times} | {batch, SupId, Ops}: the operations of a batch are all in
%%            the supervisor's mailbox before it reads the first.
-module(otp_supervisor).
-behaviour(supervisor).
-export([main/2, now/0, start_worker/1, start_worker/2, start_sup/1, init/1]).

main(In, Out) ->
    logger:set_primary_config(level, none),
    process_flag(trap_exit, true),
    ets:new(refusals, [named_table, public]),
    ets:new(pids, [named_table, public]),
    ets:new(clock, [named_table, public]),
    register(driver, self()),
    AtHand = at_hand(),
    {ok, Scenarios} = file:consult(In),
    {ok, File} = file:open(Out, [write, raw, delayed_write]),
    ok = file:write(File, ["clock ", atom_to_list(AtHand), "\n"]),
    lists:foldl(fun(Scenario, N) ->
                        Lines = scenario(Scenario, AtHand),
                        ok = file:write(File, ["scenario ", integer_to_list(N), "\n" | Lines]),
                        N + 1
                end, 0, Scenarios),
    ok = file:close(File).

%% The installed supervisor under another name, asking now/0 for the time.
at_hand() ->
    {ok, {_, [{_, Chunk}]}} = beam_lib:chunks(code:which(supervisor), [abstract_code]),
    case Chunk of
        {raw_abstract_v1, Forms} ->
            {ok, Module, Binary} = compile:forms([form(F) || F <- Forms], []),
            {module, Module} = code:load_binary(Module, "at_hand", Binary),
            at_hand;
        no_abstract_code -> none
    end.

form({attribute, L, module, supervisor}) -> {attribute, L, module, supervisor_at_hand};
form(Form) -> expr(Form).

expr({call, L, {remote, _, {atom, _, erlang}, {atom, _, monotonic_time}}, [_]}) ->
    {call, L, {remote, L, {atom, L, ?MODULE}, {atom, L, now}}, []};
expr({call, L, {remote, _, {atom, _, gen_server}, {atom, _, start_link}} = F, [{atom, A, supervisor} | Args]}) ->
    {call, L, F, [{atom, A, supervisor_at_hand} | Args]};
expr(T) when is_tuple(T) -> list_to_tuple([expr(E) || E <- tuple_to_list(T)]);
expr([H | T]) -> [expr(H) | expr(T)];
expr(T) -> T.

now() -> ets:lookup_element(clock, now, 2).

%% -- one scenario ---------------------------------------------------------------------------------------------

scenario({at_hand, _, _}, none) -> ["skipped\n"];
scenario({Clock, Root, Batches}, _) ->
    [ets:delete_all_objects(T) || T <- [refusals, pids, clock]],
    ets:insert(clock, [{now, 0}, {module, case Clock of real -> supervisor; at_hand -> supervisor_at_hand end}]),
    {First, Rest} = lists:splitwith(fun(B) -> element(1, B) =:= refuse end, Batches),
    lists:foreach(fun({refuse, Id, K}) -> ets:insert(refusals, {Id, K}) end, First),
    Started = start_sup(Root),
    case Started of
        {ok, _} ->
            lists:foldl(fun batch/2, 0, Rest),
            shutdown(element(2, Root));
        {error, _} -> ok
    end,
    [unlink(P) || {_, P} <- ets:tab2list(pids)],
    events().

batch({advance, Seconds}, N) -> ets:update_counter(clock, now, Seconds), N;
batch({refuse, Id, Times}, N) -> ets:insert(refusals, {Id, Times}), N;
batch({batch, Sup, Ops}, N) ->
    case alive(Sup) of
        false -> N + length(Ops);
        {true, Pid} ->
            ok = sys:suspend(Pid),
            Last = lists:foldl(fun(Op, I) -> op(Op, Pid, I), I + 1 end, N, Ops),
            ok = sys:resume(Pid),
            settle(),
            Last
    end.

op({crash, Id, Reason}, Sup, _) ->
    case alive(Id) of
        false -> ok;
        {true, Pid} ->
            {_, Before} = process_info(Sup, message_queue_len),
            case Reason of
                killed -> exit(Pid, kill);
                _ -> Pid ! {die, Reason}
            end,
            until(fun() -> process_info(Sup, message_queue_len) =:= {message_queue_len, Before + 1} end)
    end;
op({terminate_dynamic, Id}, Sup, N) ->
    case alive(Id) of
        {true, Pid} -> call(Sup, N, {terminate_child, Pid});
        false -> ok
    end;
op({start_dynamic, Id}, Sup, N) -> call(Sup, N, {start_child, [Id]});
op({start_child, Child}, Sup, N) -> call(Sup, N, {start_child, spec(Child)});
op(Request, Sup, N) -> call(Sup, N, Request).

call(Sup, N, Request) -> Sup ! {'$gen_call', {self(), {op, N}}, Request}.

shutdown(Id) ->
    case alive(Id) of
        false -> ok;
        {true, Pid} ->
            Mon = monitor(process, Pid),
            exit(Pid, shutdown),
            receive {'DOWN', Mon, process, Pid, _} -> ok end
    end.

%% Until no supervisor has anything left to deal with: no child is restarting, none is listed that is dead, and none
%% has died while they were asked.
settle() ->
    Sups = living(),
    case lists:all(fun quiet/1, Sups) andalso living() =:= Sups of
        true -> ok;
        false -> erlang:yield(), settle()
    end.

living() -> [Pid || {{sup, _}, Pid} <- ets:tab2list(pids), is_process_alive(Pid)].

quiet(Sup) ->
    try supervisor:which_children(Sup) of
        Children -> lists:all(fun({_, undefined, _, _}) -> true;
                                 ({_, restarting, _, _}) -> false;
                                 ({_, Child, _, _}) -> is_process_alive(Child)
                              end, Children)
    catch exit:_ -> false
    end.

until(Fun) ->
    case Fun() of
        true -> ok;
        false -> erlang:yield(), until(Fun)
    end.

alive(Id) ->
    Found = case ets:lookup(pids, {sup, Id}) of
                [] -> ets:lookup(pids, Id);
                Sup -> Sup
            end,
    case Found of
        [{_, Pid}] ->
            case is_process_alive(Pid) of
                true -> {true, Pid};
                false -> false
            end;
        [] -> false
    end.

%% -- children -------------------------------------------------------------------------------------------------

spec({worker, Id, Restart, Shutdown, Significant, Stubborn}) ->
    #{id => Id, start => {?MODULE, start_worker, [{Id, Stubborn}]}, restart => Restart, shutdown => Shutdown,
      significant => Significant};
spec({sup, Id, Restart, Significant, Sup}) ->
    #{id => Id, start => {?MODULE, start_sup, [Sup]}, restart => Restart, shutdown => infinity, type => supervisor,
      significant => Significant}.

init({sup, _, Strategy, Intensity, Period, Auto, Children}) ->
    Specs = case {Strategy, Children} of
                {simple_one_for_one, [{worker, Id, Restart, Shutdown, Significant, Stubborn}]} ->
                    [#{id => Id, start => {?MODULE, start_worker, [Stubborn]}, restart => Restart,
                       shutdown => Shutdown, significant => Significant}];
                _ -> [spec(C) || C <- Children]
            end,
    {ok, {#{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => Auto}, Specs}}.

start_sup({sup, Id, _, _, _, _, _} = Sup) ->
    note(["start ", atom_to_list(Id)]),
    Module = ets:lookup_element(clock, module, 2),
    case Module:start_link(?MODULE, Sup) of
        {ok, Pid} -> born({sup, Id}, Id, Pid, [procs, send]);
        Error -> note(["failed ", atom_to_list(Id)]), Error
    end.

start_worker(Stubborn, Id) -> start_worker({Id, Stubborn}).

start_worker({Id, Stubborn}) ->
    case ets:lookup(refusals, Id) of
        [{_, Times}] when Times > 0 ->
            ets:update_counter(refusals, Id, -1),
            note(["refused ", atom_to_list(Id)]),
            {error, refused};
        _ ->
            note(["start ", atom_to_list(Id)]),
            Parent = self(),
            Pid = spawn_link(fun() -> process_flag(trap_exit, true), Parent ! {ready, self()}, worker(Stubborn) end),
            receive {ready, Pid} -> ok end,
            born(Id, Id, Pid, [procs])
    end.

worker(Stubborn) ->
    receive
        {die, Reason} -> exit(Reason);
        {'EXIT', _, Reason} when not Stubborn -> exit(Reason);
        _ -> worker(Stubborn)
    end.

born(Key, Id, Pid, Flags) ->
    ets:insert(pids, {Key, Pid}),
    driver ! {note, stamp(), {born, Pid, Id}},
    erlang:trace(Pid, true, [strict_monotonic_timestamp, {tracer, whereis(driver)} | Flags]),
    {ok, Pid}.

%% -- events ---------------------------------------------------------------------------------------------------

note(Line) -> driver ! {note, stamp(), Line}.

%% On the same clock as the trace's: see strict_monotonic_timestamp.
stamp() -> {erlang:monotonic_time(), erlang:unique_integer([monotonic])}.

events() ->
    Ref = erlang:trace_delivered(all),
    receive {trace_delivered, all, Ref} -> ok end,
    {_, Lines} = lists:foldl(fun line/2, {#{}, []}, lists:sort(drain())),
    lists:reverse(Lines).

drain() ->
    receive
        {note, At, What} -> [{At, What} | drain()];
        {trace_ts, Pid, exit, Reason, At} -> [{At, {exit, Pid, Reason}} | drain()];
        {trace_ts, _, send, {{op, N}, Reply}, _, At} -> [{At, {answer, N, Reply}} | drain()];
        _ -> drain()
    after 0 -> []
    end.

line({_, {born, Pid, Id}}, {Names, Lines}) -> {Names#{Pid => Id}, Lines};
line({_, {exit, Pid, Reason}}, {Names, Lines}) ->
    {Names, [["exit ", atom_to_list(maps:get(Pid, Names)), " ", reason(Reason), "\n"] | Lines]};
line({_, {answer, N, Reply}}, {Names, Lines}) ->
    {Names, [["answer ", integer_to_list(N), " ", answer(Reply), "\n"] | Lines]};
line({_, Note}, {Names, Lines}) -> {Names, [[Note, "\n"] | Lines]}.

reason({crashed, _}) -> "crashed";
reason(Reason) when is_atom(Reason) -> atom_to_list(Reason);
reason({shutdown, _}) -> "shutdown";
reason(Reason) -> io_lib:format("~0p", [Reason]).

answer(ok) -> "ok";
answer({ok, _}) -> "ok";
answer({error, {already_started, _}}) -> "already_started";
answer({error, {refused, _}}) -> "refused";
answer({error, {{shutdown, {failed_to_start_child, _, _}}, _}}) -> "refused";
answer({error, {shutdown, {failed_to_start_child, _, _}}}) -> "refused";
answer({error, Reason}) when is_atom(Reason) -> atom_to_list(Reason);
answer(Other) -> io_lib:format("~0p", [Other]).
