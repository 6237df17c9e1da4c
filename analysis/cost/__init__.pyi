from .costs import cost as cost, relation_macs as relation_macs, relation_params as relation_params
